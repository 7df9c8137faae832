"""The part `teacher`: one model or several to learn from, or a black box."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from kdcli import plugins
from kdcli.recipe.base import FrozenConfig, Revision, SourceReference
from kdcli.recipe.black_box_teachers import BLACK_BOX_TEACHERS, BlackBoxTeacher
from kdcli.recipe.training import TrainingConfig


class TeacherModelConfig(FrozenConfig):
    """A model to learn from."""

    model: SourceReference = Field(
        min_length=1,
        description="A Hub id, a folder, or package:NAME/PATH for weights in a Python package.",
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    fine_tune: TrainingConfig | None = Field(
        None, description="How to fine-tune it first. Default: it is fine-tuned already."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**32, description="Seed of its fine-tuning. Default: the recipe's."
    )
    cross_fit_folds: int | None = Field(
        None,
        ge=2,
        description="Number of folds for cross-fitting: a model fine-tuned on the other folds "
        "predicts each training text, since a teacher is overconfident on texts it has seen. "
        "Default: no cross-fitting.",
    )
    temperature_scaling: bool = Field(
        False, description="Divide its logits by the temperature that fits the validation texts."
    )
    weight: float = Field(1.0, gt=0, description="Its share in the mean of several teachers.")

    @property
    def title(self) -> str:
        """The teacher in a few words, for the model card and notes."""
        return self.model

    @model_validator(mode="after")
    def _check_folds_need_fine_tuning(self) -> "TeacherModelConfig":
        if self.cross_fit_folds is not None and self.fine_tune is None:
            raise ValueError("has cross_fit_folds, which needs fine_tune")
        return self


class AdditionalTeacherConfig(TeacherModelConfig):
    """Another model to learn from, or the first one with another seed."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required"))


class ClassifierTeacherConfig(TeacherModelConfig):
    """The model to learn from, which the student is cut from and compared with."""

    source_key: ClassVar[str | None] = "model"
    kind: Literal["classifier"] = "classifier"
    ensemble_with: tuple[AdditionalTeacherConfig, ...] = Field(
        (),
        description="More teachers, with other seeds or architectures: the student learns from the "
        "mean of all probabilities. An entry without a model is the first with another seed.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_from_first_teacher(cls, raw_values: Any) -> Any:
        if not isinstance(raw_values, dict) or not isinstance(
            raw_values.get("ensemble_with"), list | tuple
        ):
            return raw_values
        first = {k: raw_values[k] for k in ("model", "revision", "fine_tune") if k in raw_values}
        others = [
            first | other
            if isinstance(other, dict) and "seed" in other and "model" not in other
            else other
            for other in raw_values["ensemble_with"]
        ]
        return {**raw_values, "ensemble_with": others}


_BUILT_IN: tuple[type[FrozenConfig], ...] = (ClassifierTeacherConfig, *BLACK_BOX_TEACHERS)
TEACHER_CONFIGS = {config.model_fields["kind"].default: config for config in _BUILT_IN}
_PLUGIN_GROUP = "kdcli.teachers"


def teacher_kinds() -> tuple[str, ...]:
    """List the kinds of teachers: the built-in ones, then those of installed packages."""
    return (*TEACHER_CONFIGS, *plugins.plugin_names(_PLUGIN_GROUP))


def _get_teacher_kind(teacher: Any) -> Any:
    if isinstance(teacher, dict):
        return teacher.get("kind", "classifier")
    return getattr(teacher, "kind", "classifier")


def _validate_teacher(value: Any, validate_built_in: ValidatorFunctionWrapHandler) -> Any:
    """Validate a teacher whose class is found by its kind, built-in or not."""
    if isinstance(value, BlackBoxTeacher):
        return value
    kind = _get_teacher_kind(value)
    if not isinstance(kind, str) or kind in TEACHER_CONFIGS:
        return validate_built_in(value)
    teacher = plugins.validate_by_kind(_PLUGIN_GROUP, kind, BlackBoxTeacher, value)
    return validate_built_in(value) if teacher is None else teacher


if TYPE_CHECKING:
    AnyTeacher = ClassifierTeacherConfig | BlackBoxTeacher
else:
    AnyTeacher = Annotated[
        Union[  # noqa: UP007
            tuple(Annotated[config, Tag(kind)] for kind, config in TEACHER_CONFIGS.items())
        ],
        Discriminator(_get_teacher_kind),
        WrapValidator(_validate_teacher),
        SerializeAsAny(),
    ]
