"""The part `teacher`: the model to learn from, or several, or only its answers."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from kdcli.recipe.base import Revision, Source, Spec
from kdcli.recipe.black_box import (
    BLACK_BOXES,
    EmbeddingsSpec,
    EndpointSpec,
    FunctionSpec,
    ScoresSpec,
    ZeroShotSpec,
)
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

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return self.model

    @model_validator(mode="after")
    def _something_to_fold(self) -> "OneTeacherSpec":
        if self.folds is not None and self.fine_tune is None:
            raise ValueError("takes folds only where it is fine-tuned")
        return self


class TeacherSpec(OneTeacherSpec):
    """The model to learn from, which the student is cut from and compared with."""

    source: ClassVar[str | None] = "model"
    kind: Literal["classifier"] = "classifier"
    also: tuple[OneTeacherSpec, ...] = Field(
        (),
        description="More teachers, of other seeds or architectures: the student learns from the "
        "mean of all their probabilities.",
    )


TEACHERS: tuple[type[Spec], ...] = (TeacherSpec, *BLACK_BOXES)
TEACHER_KINDS: tuple[str, ...] = tuple(spec.model_fields["kind"].default for spec in TEACHERS)


def _kind(teacher: Any) -> Any:
    if isinstance(teacher, dict):
        return teacher.get("kind", TEACHER_KINDS[0])
    return getattr(teacher, "kind", TEACHER_KINDS[0])


Teacher = Annotated[
    Annotated[TeacherSpec, Tag("classifier")]
    | Annotated[ScoresSpec, Tag("scores")]
    | Annotated[ZeroShotSpec, Tag("zero_shot")]
    | Annotated[EmbeddingsSpec, Tag("embeddings")]
    | Annotated[EndpointSpec, Tag("endpoint")]
    | Annotated[FunctionSpec, Tag("function")],
    Discriminator(_kind),
]
