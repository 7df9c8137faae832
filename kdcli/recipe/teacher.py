"""The part `teacher`: the model to learn from, or several, or only its answers."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

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


class AnotherTeacherSpec(OneTeacherSpec):
    """Another model to learn from, or the first one with another seed."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required"))


class TeacherSpec(OneTeacherSpec):
    """The model to learn from, which the student is cut from and compared with."""

    source: ClassVar[str | None] = "model"
    kind: Literal["classifier"] = "classifier"
    also: tuple[AnotherTeacherSpec, ...] = Field(
        (),
        description="More teachers, of other seeds or architectures: the student learns from the "
        "mean of all their probabilities. One that names no model is the first, with another seed.",
    )

    @model_validator(mode="before")
    @classmethod
    def _same_again(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("also"), list | tuple):
            return given
        first = {k: given[k] for k in ("model", "revision", "fine_tune") if k in given}
        also = [
            first | one if isinstance(one, dict) and "seed" in one and "model" not in one else one
            for one in given["also"]
        ]
        return {**given, "also": also}


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
