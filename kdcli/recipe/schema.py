"""The recipe, whole: every key with a default or a reason to be required.

`kd recipe schema` prints this as JSON Schema; the descriptions are what an editor
shows.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from kdcli.losses import AnyLoss, default_losses
from kdcli.recipe.augmentation import AugmentationConfig
from kdcli.recipe.base import FrozenConfig
from kdcli.recipe.black_box_teachers import BlackBoxTeacher
from kdcli.recipe.data import DataConfig
from kdcli.recipe.student import StudentConfig
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
    """How the student learns from the teacher."""

    losses: Annotated[tuple[AnyLoss, ...], Field(min_length=1)] | None = Field(
        None,
        description="The terms of the loss; their weighted sum is what is minimised. Left out: "
        "soft_targets and cross_entropy, half each; of scores, logits_mse and labels_mse.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**32,
        description="Of the student's training, and of those of its initial weights that are drawn "
        "at random. Left out: the recipe's.",
    )

    @model_validator(mode="after")
    def _check_some_loss_is_active(self) -> "DistillConfig":
        if self.losses is not None and not any(loss.is_active for loss in self.losses):
            raise ValueError("has losses whose weights are all 0: nothing would be learnt")
        return self

    def losses_for_task(self, task: Task) -> tuple[AnyLoss, ...]:
        """The terms of the loss, for a task."""
        return default_losses(task) if self.losses is None else self.losses


class EvaluateConfig(FrozenConfig):
    """What is measured."""

    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("validation", "test"), min_length=1, description="The splits to measure on."
    )
    out_of_scope: Annotated[str, StringConstraints(strip_whitespace=True)] | None = Field(
        None, description="The label that stands for 'none of the others', reported apart."
    )
    max_false_rejection_rate: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="The share of in-scope validation texts that the out-of-scope threshold, "
        "chosen there, may refuse.",
    )
    thresholds: Literal["global", "per_label"] = Field(
        "global",
        description="Where a text has several labels: one 'global' probability threshold, or "
        "one 'per_label'; chosen on validation for the best F1.",
    )
    batch_size: int = Field(64, ge=1, description="Texts in a batch of the accuracy measurement.")
    latency_texts: int = Field(
        100, ge=1, description="Texts to time one at a time, after a warm-up."
    )


class ModelCardConfig(FrozenConfig):
    """What the model card says beside the figures."""

    license: str = Field("apache-2.0", description="The student's licence, a Hub identifier.")
    language: str | tuple[str, ...] = Field("en", description="Language code, or several.")
    dataset_name: str | None = Field(
        None, description="The data set's name on the card. Left out: its id or folder name."
    )


class Recipe(FrozenConfig):
    """A distillation, whole: data, teacher, student, training, evaluation, card."""

    name: Annotated[str, AfterValidator(_validate_portable_name)] = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="The run's name, and its folder's: letters, digits, '.', '_' and '-'.",
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seeds everything that is random.")
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
        description="Whether to train the same student on the labels alone as well, with the same "
        "budget: is distilling better than plain fine-tuning? With unlabelled or altered texts, "
        "also once without them.",
    )
    evaluate: EvaluateConfig = EvaluateConfig()
    card: ModelCardConfig = ModelCardConfig()
    sweep: Annotated[SearchSpace, Field(min_length=1)] | None = Field(
        None,
        description="What `kd sweep` varies: keys of student and distill, dotted, each with a list "
        "of values or a range. Left out: learning rate, temperatures, weights and layers.",
    )
    report_to: tuple[str, ...] = Field(
        ("tensorboard",),
        description="Where training is shown live, as transformers calls it: tensorboard (in the "
        "run's logs), wandb, mlflow, … [] is nowhere.",
    )

    @model_validator(mode="after")
    def _check_student_has_source(self) -> "Recipe":
        if self.white_box_teacher is None and self.student.model is None:
            raise ValueError(
                f"has a teacher of kind {self.teacher.kind} and no student.model: there is nothing "
                "to cut a student out of"
            )
        return self

    @model_validator(mode="after")
    def _check_labels_where_needed(self) -> "Recipe":
        if self.data.label is not None:
            return self
        own = self.white_box_teacher
        uses = {
            "teacher.fine_tune": own and any(o.fine_tune for o in (own, *own.ensemble_with)),
            "teacher.temperature_scaling": own
            and any(o.temperature_scaling for o in (own, *own.ensemble_with)),
            "baseline": self.baseline,
        }
        if needed := [key for key, there in uses.items() if there]:
            raise ValueError(f"has {needed[0]}, which needs labels, and none: data.label is null")
        return self

    @property
    def has_transfer_set(self) -> bool:
        """Whether there are texts that the teacher alone labels."""
        return self.data.unlabeled is not None or self.augment is not None

    @property
    def has_control_student(self) -> bool:
        """Whether to show what these texts bring."""
        return self.baseline and self.has_transfer_set

    @property
    def student_seed(self) -> int:
        """The seed of the student's training and of its random initial weights."""
        return self.seed if self.distill.seed is None else self.distill.seed

    @property
    def white_box_teacher(self) -> ClassifierTeacherConfig | None:
        """The teacher, where it is a model that a student can be cut out of."""
        return self.teacher if isinstance(self.teacher, ClassifierTeacherConfig) else None

    @property
    def black_box_teacher(self) -> BlackBoxTeacher | None:
        """The teacher, where it gives answers alone."""
        return None if isinstance(self.teacher, ClassifierTeacherConfig) else self.teacher

    def with_default_losses(self, task: Task) -> "Recipe":
        """The recipe with the losses that it leaves to its task."""
        own = self.distill.model_copy(update={"losses": self.distill.losses_for_task(task)})
        return self.model_copy(update={"distill": own})


class InitStudentCommandConfig(FrozenConfig):
    """What `kd init-student` needs of a recipe."""

    student: StudentConfig = StudentConfig()
    data: DataConfig | None = None


class EvaluateCommandConfig(FrozenConfig):
    """What `kd evaluate` needs of a recipe."""

    seed: int = Field(42, ge=0, lt=2**32)
    data: DataConfig
    evaluate: EvaluateConfig = EvaluateConfig()
