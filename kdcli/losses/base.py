"""The base classes of losses, and the data they work on.

A loss is one class: its keys in a recipe are the fields of a frozen pydantic model, and `forward`
computes the value. Nothing here imports torch at module level, so reading a recipe stays fast.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kdcli.errors import RecipeError
from kdcli.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

TeacherOutput = Literal["logits", "hidden_states", "attentions", "relations"]
# Outputs that lie within a model: a teacher that only gives answers has none of them.
INTERNAL_OUTPUTS: frozenset[TeacherOutput] = frozenset({"hidden_states", "attentions", "relations"})
_CONFIG = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LinearRamp(BaseModel):
    """A value that changes linearly from the first step to the last."""

    model_config = _CONFIG

    start: float = Field(ge=0, description="At the first step.")
    end: float = Field(ge=0, description="At the last step.")

    def at(self, progress: float) -> float:
        """Return the value at a progress between 0 (first step) and 1 (last step)."""
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of a model for one batch.

    A loss gets the outputs already aligned: entry i of the student's `hidden_states`,
    `attentions` and `qkv` is to be compared with entry i of the teacher's, and the student's hidden
    states are projected to the teacher's width.

    Attributes:
        logits: (batch, classes).
        attention_mask: (batch, tokens), 1 for a token and 0 for padding.
        hidden_states: The embeddings' output and each layer's, (batch, tokens, width). For a loss
            whose `compares` is "pooled": the mean over a text's tokens, (batch, width).
        attentions: Each layer's attention before dropout, (batch, heads, tokens, tokens).
        qkv: `queries`, `keys` and `values` of each layer, (batch, tokens, width).
    """

    logits: "Tensor"
    attention_mask: "Tensor | None" = None
    hidden_states: "Sequence[Tensor] | Mapping[int, Tensor]" = ()
    attentions: "Sequence[Tensor]" = ()
    qkv: "Mapping[str, Sequence[Tensor]]" = field(default_factory=dict)


@dataclass(frozen=True)
class LabelLossOptions:
    """Label smoothing, focal loss and class weights of the training in progress.

    Attributes:
        label_smoothing: Share of a label that is spread over all classes.
        focal_gamma: Gamma of the focal loss; 0 turns it off.
        class_weights: (classes,), or (2, labels) for absent and present labels.
        all_labelled: Whether every training text has a label.
    """

    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    class_weights: "Tensor | None" = None
    all_labelled: bool = True


@dataclass(frozen=True)
class LayerMapping:
    """The layers of student and teacher that correspond to each other.

    Attributes:
        student_width: The student's hidden width.
        teacher_width: The teacher's hidden width.
        teacher_layer_indices: For each student layer the teacher's layer, counted from 0.
        teacher_depth: Number of layers of the teacher.
    """

    student_width: int
    teacher_width: int
    teacher_layer_indices: tuple[int, ...]
    teacher_depth: int


class Loss(BaseModel):
    """A term of the student's loss.

    A subclass declares its `kind` (a `Literal` with a default), its hyperparameters as fields, the
    class variables below where they differ, and `forward`. A field typed `LinearRamp | float` holds
    a plain float by the time `forward` is called.

    Attributes:
        needs: The teacher's outputs that the loss reads. For `hidden_states`, `attentions` and
            `relations` the teacher runs beside the student.
        compares: The hidden states that a loss that needs "hidden_states" reads: those of
            corresponding `layers`, the `embeddings`' output, or the last layer's mean over tokens
            (`pooled`).
        not_for: For each task that the loss can't serve, the reason.
    """

    model_config = _CONFIG

    needs: ClassVar[frozenset[TeacherOutput]] = frozenset()
    compares: ClassVar[Literal["layers", "embeddings", "pooled"]] = "layers"
    not_for: ClassVar[Mapping[str, str]] = {}

    if TYPE_CHECKING:
        kind: str
    weight: LinearRamp | Annotated[float, Field(ge=0)] = Field(
        1.0, description="The term's share of the loss; {start: 1, end: 0} changes as it trains."
    )

    @property
    def is_active(self) -> bool:
        """Return whether the weight is above 0 at any step."""
        return self.weight != 0 and self.weight != LinearRamp(start=0, end=0)

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute the loss of a batch, a scalar: the mean over its rows, without the weight.

        Args:
            student_outputs: The student's outputs, aligned with the teacher's.
            teacher_outputs: The teacher's outputs, as far as `needs` names them.
            labels: Class ids or scores, (batch,); 0 and 1 for each label, (batch, labels), where a
                text has several.
        """
        raise NotImplementedError

    def compared_layers(self, mapping: LayerMapping) -> list[tuple[int, int]]:
        """Return the pairs (student's layer, teacher's layer) to compare, counted from 0.

        Raises:
            ValueError: A field doesn't suit the two models.
        """
        return list(enumerate(mapping.teacher_layer_indices))

    def check_task(self, task: Task) -> None:
        """Check that the loss serves a task.

        Raises:
            ValueError: It doesn't, with the reason.
        """
        if task.name in self.not_for:
            raise ValueError(self.not_for[task.name])

    def at(self, progress: float) -> "Self":
        """Return the loss with every ramp replaced by its value at a progress from 0 to 1."""
        ramps = {name: value.at(progress) for name, value in self if isinstance(value, LinearRamp)}
        return self.model_copy(update=ramps) if ramps else self


class LabelLoss(Loss):
    """A loss of the data's labels; rows without a label contribute 0 to its mean."""

    def forward(
        self,
        student_outputs: ModelOutputs,
        teacher_outputs: ModelOutputs,
        labels: "Tensor",
        options: LabelLossOptions = LabelLossOptions(),
    ) -> "Tensor":
        """Compute the loss of a batch whose rows all have a label; see `Loss.forward`."""
        raise NotImplementedError


class TemperatureLoss(Loss):
    """A loss of softened outputs."""

    temperature: LinearRamp | Annotated[float, Field(gt=0)] = Field(
        2.0, description="Softens teacher and student alike; {start: 4, end: 1} anneals."
    )

    @property
    def current_temperature(self) -> float:
        """The temperature, once `at` has resolved the ramp."""
        assert not isinstance(self.temperature, LinearRamp)
        return self.temperature

    @model_validator(mode="after")
    def _check_temperature_positive(self) -> "Self":
        if isinstance(self.temperature, LinearRamp) and not (
            self.temperature.start and self.temperature.end
        ):
            raise ValueError("has a temperature that begins or ends at 0: it is above 0")
        return self


class LayerwiseLoss(Loss):
    """A loss that compares layers of the student with layers of the teacher.

    A subclass needs one of "hidden_states" and "attentions", and declares `layer_loss`.

    Attributes:
        layer_loss: Loss of one layer: of the student's states, the teacher's, and the attention
            mask (batch, tokens).
    """

    layer_loss: ClassVar[Callable[..., "Tensor"]]

    teacher_layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        min_length=1,
        description="For each layer of the student the teacher's to compare it with, counted from "
        "0. Left out: the layer it was cut from, or evenly spread ones.",
    )

    def compared_layers(self, mapping: LayerMapping) -> list[tuple[int, int]]:
        """Pair each student layer with the layer that `teacher_layers` names, if given."""
        if self.teacher_layers is None:
            return super().compared_layers(mapping)
        depth = len(mapping.teacher_layer_indices)
        if len(self.teacher_layers) != depth:
            raise ValueError(
                f"teacher_layers names {len(self.teacher_layers)} layers, and the student has "
                f"{depth}: give the teacher's for each of them."
            )
        return list(enumerate(self.teacher_layers))

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute the mean of `layer_loss` over the compared layers."""
        from kdcli.losses.tensor_ops import mean_over_layers

        (output,) = self.needs
        return mean_over_layers(
            type(self).layer_loss,
            getattr(student_outputs, output),
            getattr(teacher_outputs, output),
            student_outputs.attention_mask,
        )


def required_teacher_outputs(losses: Sequence[Loss]) -> frozenset[TeacherOutput]:
    """Return the teacher's outputs that the active losses need, before any model is loaded."""
    return frozenset(output for loss in losses if loss.is_active for output in loss.needs)


def check_losses_for_task(losses: Sequence[Loss], task: Task) -> None:
    """Check that each loss serves the task.

    Raises:
        RecipeError: One of them doesn't.
    """
    from kdcli.losses import BUILT_IN_LOSSES

    for loss in losses:
        try:
            loss.check_task(task)
        except ValueError as error:
            fitting = (kind for kind, c in BUILT_IN_LOSSES.items() if task.name not in c.not_for)
            raise RecipeError(
                f"distill.losses: {loss.kind} is not for {task}: {error}.",
                f"Losses for {task}: {', '.join(fitting)}.",
            ) from error
