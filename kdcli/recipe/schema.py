"""The recipe: every key, with its default and description.

`kd recipe schema` prints this as JSON Schema; the descriptions are what an editor
shows.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from kdcli.losses import AnyLoss, default_losses
from kdcli.recipe.augmentation import AugmentationConfig
from kdcli.recipe.base import FrozenConfig
from kdcli.recipe.black_box_teachers import BlackBoxTeacher
from kdcli.recipe.data import DataConfig
from kdcli.recipe.export import ExportConfig
from kdcli.recipe.student import StudentConfig
from kdcli.recipe.student_family_plugin import FAMILIES_WITHOUT_EXPORT, FAMILY_TRAINING_DEFAULTS
from kdcli.recipe.sweep import SearchSpace
from kdcli.recipe.teacher import AnyTeacher, ClassifierTeacherConfig
from kdcli.recipe.training import TrainingConfig
from kdcli.tasks import Task

_INVALID_WINDOWS_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.", re.IGNORECASE)


def _validate_portable_name(name: str) -> str:
    if _INVALID_WINDOWS_NAME.fullmatch(name):
        raise ValueError("can't name a folder on Windows: choose another")
    return name


class DistillConfig(TrainingConfig):
    """The student's training: hyperparameters, losses and seed."""

    losses: Annotated[tuple[AnyLoss, ...], Field(min_length=1)] | None = Field(
        None,
        description="The terms of the loss, whose weighted sum is minimised. Default: "
        "soft_targets and cross_entropy, half each; for scores, logits_mse and labels_mse.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**32,
        description="Seed of the student's training and of its random initial weights. Default: "
        "the recipe's.",
    )

    @model_validator(mode="after")
    def _check_some_loss_is_active(self) -> "DistillConfig":
        if self.losses is not None and not any(loss.is_active for loss in self.losses):
            raise ValueError("has losses whose weights are all 0: the student would learn nothing")
        return self

    def losses_for_task(self, task: Task) -> tuple[AnyLoss, ...]:
        """Return the terms of the loss, or the task's default terms."""
        return default_losses(task) if self.losses is None else self.losses


SimpleBaseline = Literal["tfidf", "frozen_encoder"]


class EvaluateConfig(FrozenConfig):
    """The evaluation: splits, thresholds and measurements."""

    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("validation", "test"), min_length=1, description="The splits to measure on."
    )
    out_of_scope: Annotated[str, StringConstraints(strip_whitespace=True)] | None = Field(
        None, description="The label that means 'none of the others', reported separately."
    )
    max_false_rejection_rate: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="Share of in-scope validation texts that the out-of-scope threshold, chosen "
        "there, may reject.",
    )
    thresholds: Literal["global", "per_label"] = Field(
        "global",
        description="Where a text has several labels: one 'global' probability threshold, or "
        "one 'per_label'; chosen on validation for the best F1.",
    )
    batch_size: int = Field(64, ge=1, description="Texts in a batch of the accuracy measurement.")
    latency_texts: int = Field(100, ge=1, description="Texts to time one by one, after a warm-up.")
    baselines: tuple[SimpleBaseline, ...] = Field(
        ("tfidf", "frozen_encoder"),
        description="Classifiers without a teacher to compare with, fitted to the labels in "
        "seconds: 'tfidf', word and character n-grams; 'frozen_encoder', embeddings of the "
        "teacher's model before fine-tuning; each with a logistic regression.",
    )


class ModelCardConfig(FrozenConfig):
    """Entries of the model card beside the metrics."""

    license: str = Field("apache-2.0", description="The student's licence, a Hub identifier.")
    language: str | tuple[str, ...] = Field("en", description="Language code, or several.")
    dataset_name: str | None = Field(
        None, description="The data set's name on the card. Default: its id or folder name."
    )


class Recipe(FrozenConfig):
    """A complete distillation: data, teacher, student, training, evaluation, card."""

    name: Annotated[str, AfterValidator(_validate_portable_name)] = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="Name of the run and its folder: letters, digits, '.', '_' and '-'.",
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of everything random.")
    data: DataConfig
    augment: AugmentationConfig | None = Field(
        None,
        description="Altered copies of the training texts, which the student learns from the "
        "teacher's outputs alone.",
    )
    teacher: AnyTeacher
    student: StudentConfig = StudentConfig()
    distill: DistillConfig = DistillConfig()
    baseline: bool = Field(
        False,
        description="Also train the same student on the labels alone, with the same budget, to "
        "compare distillation with plain fine-tuning. With unlabeled or altered texts, also train "
        "it once without them.",
    )
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig | None = Field(
        None,
        description="Export the student to ONNX, for runtimes without PyTorch; {} takes the "
        "defaults. Needs pip install 'kdcli[export]'.",
    )
    card: ModelCardConfig = ModelCardConfig()
    sweep: Annotated[SearchSpace, Field(min_length=1)] | None = Field(
        None,
        description="Search space of `kd sweep`: dotted keys of student and distill, each with a "
        "list of values or a range. Default: learning rate, temperatures, weights and layers.",
    )
    report_to: tuple[str, ...] = Field(
        ("tensorboard",),
        description="Experiment trackers, by their names in transformers: tensorboard (in the "
        "run's logs), wandb, mlflow, … [] turns tracking off.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_family_training_defaults(cls, values: Any) -> Any:
        student = values.get("student") if isinstance(values, Mapping) else None
        family = (
            student.get("family")
            if isinstance(student, Mapping)
            else getattr(student, "family", None)
        )
        defaults = FAMILY_TRAINING_DEFAULTS.get(family, {}) if isinstance(family, str) else {}
        distill = values.get("distill") if defaults else None
        if not defaults or not (distill is None or isinstance(distill, Mapping)):
            return values
        return {**values, "distill": {**defaults, **(distill or {})}}

    @model_validator(mode="after")
    def _check_family_keys(self) -> "Recipe":
        if self.student.family in FAMILIES_WITHOUT_EXPORT and self.export is not None:
            raise ValueError(
                f"has export, but a student of family {self.student.family} is no transformer: it "
                "runs without PyTorch as it is; remove export"
            )
        return self

    @model_validator(mode="after")
    def _check_student_has_source(self) -> "Recipe":
        if self.white_box_teacher is None and self.student.is_cut_from_teacher:
            raise ValueError(
                f"has a teacher of kind {self.teacher.kind} and no student.model: there is no "
                "model to cut a student from"
            )
        return self

    @model_validator(mode="after")
    def _check_labels_where_needed(self) -> "Recipe":
        if self.data.label is not None:
            return self
        first = self.white_box_teacher
        teachers = () if first is None else (first, *first.ensemble_with)
        uses = {
            "teacher.fine_tune": any(teacher.fine_tune for teacher in teachers),
            "teacher.temperature_scaling": any(t.temperature_scaling for t in teachers),
            "baseline": self.baseline,
        }
        if needed := [key for key, there in uses.items() if there]:
            raise ValueError(f"has {needed[0]}, which needs labels, but data.label is null")
        return self

    @property
    def has_transfer_set(self) -> bool:
        """Return whether there are texts that only the teacher labels."""
        return self.data.unlabeled is not None or self.augment is not None

    @property
    def has_control_student(self) -> bool:
        """Return whether to train a control student without these texts."""
        return self.baseline and self.has_transfer_set

    @property
    def student_seed(self) -> int:
        """The seed of the student's training and of its random initial weights."""
        return self.seed if self.distill.seed is None else self.distill.seed

    @property
    def white_box_teacher(self) -> ClassifierTeacherConfig | None:
        """The teacher if it is a model that a student can be cut from, else None."""
        return self.teacher if isinstance(self.teacher, ClassifierTeacherConfig) else None

    @property
    def black_box_teacher(self) -> BlackBoxTeacher | None:
        """The teacher if it gives answers alone, else None."""
        return None if isinstance(self.teacher, ClassifierTeacherConfig) else self.teacher

    @property
    def simple_baselines(self) -> "tuple[SimpleBaseline, ...]":
        """The baselines that the evaluation includes: none without labels.

        The frozen encoder is the teacher's model before fine-tuning.
        """
        teacher = self.white_box_teacher
        has_backbone = teacher is not None and teacher.fine_tune is not None
        return tuple(
            name
            for name in (self.evaluate.baselines if self.data.label is not None else ())
            if name != "frozen_encoder" or has_backbone
        )

    def with_default_losses(self, task: Task) -> "Recipe":
        """Return the recipe with the task's default losses filled in."""
        losses = self.distill.losses_for_task(task)
        distill = self.distill.model_copy(update={"losses": losses})
        return self.model_copy(update={"distill": distill})


class InitStudentCommandConfig(FrozenConfig):
    """The part of a recipe that `kd init-student` reads."""

    student: StudentConfig = StudentConfig()
    data: DataConfig | None = None


class EvaluateCommandConfig(FrozenConfig):
    """The part of a recipe that `kd evaluate` reads."""

    seed: int = Field(42, ge=0, lt=2**32)
    data: DataConfig
    evaluate: EvaluateConfig = EvaluateConfig()
