"""The part `teacher`: the model to learn from, or several."""

from pydantic import Field, model_validator

from kdcli.recipe.base import Revision, Source, Spec
from kdcli.recipe.fit import FitSpec


class OneTeacherSpec(Spec):
    """A model to learn from."""

    model: Source = Field(
        min_length=1,
        description="A Hub id, a folder, or package:NAME/PATH for weights in a Python package.",
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    fine_tune: FitSpec | None = Field(
        None, description="How to fine-tune it first. Left out: it is a finished classifier."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**32, description="Of its fine-tuning. Left out: the recipe's."
    )
    folds: int | None = Field(
        None,
        ge=2,
        description="Have each training text answered by a model that was fine-tuned on the other "
        "parts, of so many: a teacher is surer of texts that it has seen. Left out: by itself.",
    )
    calibrated: bool = Field(
        False, description="Divide its logits by the temperature that suits the validation texts."
    )
    weight: float = Field(1.0, gt=0, description="Its share, where there are several teachers.")

    @model_validator(mode="after")
    def _something_to_fold(self) -> "OneTeacherSpec":
        if self.folds is not None and self.fine_tune is None:
            raise ValueError("takes folds only where it is fine-tuned")
        return self


class TeacherSpec(OneTeacherSpec):
    """The model to learn from, which the student is cut from and compared with."""

    also: tuple[OneTeacherSpec, ...] = Field(
        (),
        description="More teachers, of other seeds or architectures: the student learns from the "
        "mean of all their probabilities.",
    )
