"""From a recipe's losses to the function that a training step calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcli.errors import RecipeError
from kdcli.recipe.losses import (
    AttentionRelationsLossConfig,
    ContrastiveLossConfig,
    EmbeddingMseLossConfig,
    HiddenCosineLossConfig,
    HiddenMseLossConfig,
    LayerwiseLossConfig,
    LossConfig,
)
from kdcli.tasks import SINGLE_LABEL, Task
from kdcli.training.label_loss import LabelLossOptions
from kdcli.training.model_outputs import ModelOutputs
from kdcli.training.terms import TERMS, LossInputs, check_losses_for_task, loss_kind

# What a term asks of the teacher: nothing, or more than its logits.
_REQUIRED_OUTPUT: Mapping[str, str | None] = {
    "cross_entropy": None,
    "labels_mse": None,
    "hidden_mse": "hidden",
    "hidden_cosine": "hidden",
    "embeddings": "hidden",
    "contrastive": "hidden",
    "attention": "attentions",
    "relations": "relations",
}
INTERNAL_OUTPUTS = frozenset({"hidden", "attentions", "relations"})


def required_teacher_outputs(loss_configs: Sequence[LossConfig]) -> frozenset[str]:
    """What the terms ask of the teacher, known before a model is loaded.

    Returns:
        Some of `logits`, which are read from disk, and `hidden`, `attentions` and `relations`, for
        which the teacher has to run beside the student.
    """
    asked = (
        _REQUIRED_OUTPUT.get(loss_kind(spec), "logits") for spec in loss_configs if spec.is_active
    )
    return frozenset(need for need in asked if need is not None)


@dataclass(frozen=True)
class LayerMapping:
    """What an objective has to know of two models whose insides it compares.

    Attributes:
        student_width: The student's hidden width.
        teacher_width: The teacher's.
        teacher_layer_indices: For each of the student's layers the teacher's to compare it with, from 0.
        teacher_depth: How many layers the teacher has.
    """

    student_width: int
    teacher_width: int
    teacher_layer_indices: tuple[int, ...]
    teacher_depth: int


class CombinedLoss(nn.Module):
    """The weighted terms of a loss; a module, for it may have projections to learn.

    Args:
        specs: The recipe's losses.
        shapes: Of the models, where a term compares what lies within them.
        label_options: How the data's labels count.
        task: What the labels are.

    Raises:
        RecipeError: A term isn't for the task, names a layer that a model hasn't got, or heads that
            don't fit.
    """

    def __init__(
        self,
        loss_configs: Sequence[LossConfig],
        layer_mapping: LayerMapping | None = None,
        label_options: LabelLossOptions = LabelLossOptions(),
        task: Task = SINGLE_LABEL,
    ) -> None:
        super().__init__()
        check_losses_for_task(loss_configs, task)
        self.label_options, self.task = label_options, task
        self.required_outputs = required_teacher_outputs(loss_configs)
        self.terms = [
            (_term_name(i, loss_configs), spec)
            for i, spec in enumerate(loss_configs)
            if spec.is_active
        ]
        self.layer_pairs = {
            name: _layer_pairs(name, spec, layer_mapping) for name, spec in self.terms
        }
        self.teacher_depth = 0 if layer_mapping is None else layer_mapping.teacher_depth
        self.projections = nn.ModuleDict()
        if layer_mapping is not None and layer_mapping.student_width != layer_mapping.teacher_width:
            for name, spec in self.terms:
                for place in _states_to_project(spec, self.layer_pairs[name]):
                    layer = nn.Linear(layer_mapping.student_width, layer_mapping.teacher_width)
                    self.projections[f"{name}-{place}"] = layer

    def forward(
        self,
        student_outputs: ModelOutputs,
        teacher_outputs: ModelOutputs,
        labels: Tensor,
        progress: float = 0.0,
    ) -> dict[str, Tensor]:
        """Each weighted term by name: their sum is the loss.

        Args:
            student_outputs: What the student makes of the batch.
            teacher_outputs: What the teacher does, as far as `needs` asks for it.
            labels: Class ids or scores, (batch,), or 0 and 1 for each label, (batch, labels).
            progress: How much of the training is done, from 0 to 1.
        """
        terms = {}
        for name, spec in self.terms:

            def project(place: str, states: Tensor, name: str = name) -> Tensor:
                key = f"{name}-{place}"
                return self.projections[key](states) if key in self.projections else states

            batch = LossInputs(
                student_outputs,
                teacher_outputs,
                labels,
                progress,
                self.layer_pairs[name],
                project,
                self.label_options,
                self.task,
                self.teacher_depth,
            )
            terms[name] = batch.scheduled_value(spec.weight) * TERMS[self.task.name][
                loss_kind(spec)
            ](spec, batch)
        return terms

    @property
    def teacher_hidden_state_indices(self) -> list[int]:
        """Which of the teacher's hidden states are read; 0 is the embeddings' output."""
        found: set[int] = set()
        for name, spec in self.terms:
            if isinstance(spec, EmbeddingMseLossConfig):
                found.add(0)
            elif isinstance(spec, ContrastiveLossConfig):
                found.add(self.teacher_depth)
            elif isinstance(spec, HiddenMseLossConfig | HiddenCosineLossConfig):
                found |= {other + 1 for _, other in self.layer_pairs[name]}
        return sorted(found)


def sum_loss_terms(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss: the sum of the weighted terms, a scalar."""
    return torch.stack(tuple(terms.values())).sum()


def _layer_pairs(
    name: str, loss_config: LossConfig, layer_mapping: LayerMapping | None
) -> list[tuple[int, int]]:
    """The student's layers and the teacher's that a term compares."""
    if (
        layer_mapping is None
        or _REQUIRED_OUTPUT.get(loss_kind(loss_config)) not in INTERNAL_OUTPUTS
    ):
        return []
    depth = len(layer_mapping.teacher_layer_indices)
    if isinstance(loss_config, AttentionRelationsLossConfig):
        last = layer_mapping.teacher_depth - 1
        pairs = [(depth - 1, last if loss_config.layer is None else loss_config.layer)]
        for owner, width in (
            ("student", layer_mapping.student_width),
            ("teacher", layer_mapping.teacher_width),
        ):
            if width % loss_config.heads:
                raise RecipeError(
                    f"distill.losses: {name}: {loss_config.heads} heads don't divide the {owner}'s width "
                    f"of {width}."
                )
    else:
        chosen = (
            loss_config.layers
            if isinstance(loss_config, LayerwiseLossConfig) and loss_config.layers
            else layer_mapping.teacher_layer_indices
        )
        pairs = list(enumerate(chosen))
        if len(chosen) != depth:
            raise RecipeError(
                f"distill.losses: {name}: layers names {len(chosen)} layers, and the student has "
                f"{depth}: give the teacher's for each of them."
            )
    beyond = [other for _, other in pairs if other >= layer_mapping.teacher_depth]
    if beyond:
        raise RecipeError(
            f"distill.losses: {name}: there is no layer {beyond[0]}: the teacher has "
            f"{layer_mapping.teacher_depth}, counted from 0."
        )
    return pairs


def _states_to_project(
    loss_config: LossConfig, layer_pairs: Sequence[tuple[int, int]]
) -> list[str]:
    """The places whose states have to be brought to the teacher's width."""
    if isinstance(loss_config, EmbeddingMseLossConfig):
        return ["embeddings"]
    if isinstance(loss_config, ContrastiveLossConfig):
        return ["pooled"]
    hidden = isinstance(loss_config, HiddenMseLossConfig | HiddenCosineLossConfig)
    return [str(own) for own, _ in layer_pairs] if hidden else []


def _term_name(index: int, loss_configs: Sequence[LossConfig]) -> str:
    kinds = [loss_kind(spec) for spec in loss_configs]
    kind = kinds[index]
    return kind if kinds.count(kind) == 1 else f"{kind}_{kinds[:index].count(kind)}"
