"""The weighted sum of a student's losses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdcli.errors import RecipeError
from kdcli.losses.base import (
    INTERNAL_OUTPUTS,
    LabelLoss,
    LabelLossOptions,
    LayerMapping,
    LinearRamp,
    Loss,
    ModelOutputs,
    check_losses_for_task,
    required_teacher_outputs,
)
from kdcli.losses.tensor_ops import has_label_mask, mean_pool
from kdcli.tasks import SINGLE_LABEL, Task


class CombinedLoss(nn.Module):
    """The weighted losses of a training; a module, because it may have projections to train.

    Args:
        losses: The losses, in the order in which they are logged.
        layer_mapping: The two models' layers and widths, where a loss compares what lies within
            them.
        label_options: Smoothing, focal loss and weights of the labels.
        task: The task that the labels are of.

    Raises:
        RecipeError: A loss isn't for the task, names a layer that a model hasn't got, or heads that
            don't divide a width.
    """

    def __init__(
        self,
        losses: Sequence[Loss],
        layer_mapping: LayerMapping | None = None,
        label_options: LabelLossOptions = LabelLossOptions(),
        task: Task = SINGLE_LABEL,
    ) -> None:
        super().__init__()
        check_losses_for_task(losses, task)
        self.label_options, self.task = label_options, task
        self.required_outputs = required_teacher_outputs(losses)
        self.terms = [
            (_term_name(i, losses), loss) for i, loss in enumerate(losses) if loss.is_active
        ]
        self.layer_pairs = {
            name: _compared_layers(name, loss, layer_mapping) for name, loss in self.terms
        }
        self.teacher_depth = 0 if layer_mapping is None else layer_mapping.teacher_depth
        self.projections = nn.ModuleDict()
        if layer_mapping is not None and layer_mapping.student_width != layer_mapping.teacher_width:
            for name, loss in self.terms:
                for key in _projection_keys(name, loss, self.layer_pairs[name]):
                    self.projections[key] = nn.Linear(
                        layer_mapping.student_width, layer_mapping.teacher_width
                    )

    def forward(
        self,
        student_outputs: ModelOutputs,
        teacher_outputs: ModelOutputs,
        labels: Tensor,
        progress: float = 0.0,
    ) -> dict[str, Tensor]:
        """Compute each weighted loss by name; their sum is the loss to minimise.

        Args:
            student_outputs: The student's outputs for the batch.
            teacher_outputs: The teacher's, as far as `required_outputs` names them.
            labels: Class ids or scores, (batch,), or 0 and 1 for each label, (batch, labels).
            progress: Share of the training that is done, from 0 to 1.
        """
        terms = {}
        for name, loss_with_ramps in self.terms:
            loss = loss_with_ramps.at(progress)
            student, teacher = self._align(name, loss, student_outputs, teacher_outputs)
            if isinstance(loss, LabelLoss):
                value = self._label_loss(loss, student, teacher, labels)
            else:
                value = loss.forward(student, teacher, labels)
            assert not isinstance(loss.weight, LinearRamp)
            terms[name] = loss.weight * value
        return terms

    @property
    def teacher_hidden_state_indices(self) -> list[int]:
        """The teacher's hidden states that are read; 0 is the embeddings' output."""
        indices: set[int] = set()
        for name, loss in self.terms:
            if "hidden_states" in loss.needs:
                indices |= {
                    index for _, _, index in self._hidden_state_triples(name, loss, student_depth=0)
                }
        return sorted(indices)

    def _align(
        self, name: str, loss: Loss, student: ModelOutputs, teacher: ModelOutputs
    ) -> tuple[ModelOutputs, ModelOutputs]:
        """Select what a loss compares, and project the student's hidden states."""
        pairs = self.layer_pairs[name]
        if "hidden_states" in loss.needs:
            triples = self._hidden_state_triples(name, loss, len(student.hidden_states) - 1)
            own = [student.hidden_states[index] for _, index, _ in triples]
            others = [teacher.hidden_states[index] for _, _, index in triples]
            if loss.compares == "pooled":
                mask = student.attention_mask
                assert mask is not None
                own, others = ([mean_pool(s, mask) for s in states] for states in (own, others))
            keys = [key for key, _, _ in triples]
            own = [
                self.projections[key](states) if key in self.projections else states
                for key, states in zip(keys, own, strict=True)
            ]
            student = replace(student, hidden_states=own)
            teacher = replace(teacher, hidden_states=others)
        if "attentions" in loss.needs:
            student = replace(student, attentions=[student.attentions[own] for own, _ in pairs])
            teacher = replace(teacher, attentions=[teacher.attentions[to] for _, to in pairs])
        if "relations" in loss.needs:
            student, teacher = (
                replace(
                    outputs,
                    qkv={
                        part: [states[pair[side]] for pair in pairs]
                        for part, states in outputs.qkv.items()
                    },
                )
                for side, outputs in enumerate((student, teacher))
            )
        return student, teacher

    def _hidden_state_triples(
        self, name: str, loss: Loss, student_depth: int
    ) -> list[tuple[str, int, int]]:
        """The compared hidden states: projection's key, student's index, teacher's index."""
        if loss.compares == "embeddings":
            indices = [(0, 0)]
        elif loss.compares == "pooled":
            indices = [(student_depth, self.teacher_depth)]
        else:
            # The first of the hidden states is the embeddings' output.
            indices = [(own + 1, to + 1) for own, to in self.layer_pairs[name]]
        keys = _projection_keys(name, loss, self.layer_pairs[name])
        return [(key, *pair) for key, pair in zip(keys, indices, strict=True)]

    def _label_loss(
        self, loss: LabelLoss, student: ModelOutputs, teacher: ModelOutputs, labels: Tensor
    ) -> Tensor:
        """The loss's mean over all rows, where one without a label contributes 0."""
        if self.label_options.all_labelled:
            return loss.forward(student, teacher, labels, self.label_options)
        labelled = has_label_mask(labels, self.task)
        if not labelled.any():
            return 0 * student.logits.sum()
        part = replace(student, logits=student.logits[labelled])
        value = loss.forward(part, teacher, labels[labelled], self.label_options)
        return value * labelled.float().mean()


def sum_loss_terms(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the weighted losses, a scalar."""
    return torch.stack(tuple(terms.values())).sum()


def _compared_layers(
    name: str, loss: Loss, layer_mapping: LayerMapping | None
) -> list[tuple[int, int]]:
    if layer_mapping is None or not loss.needs & INTERNAL_OUTPUTS:
        return []
    try:
        pairs = loss.compared_layers(layer_mapping)
    except ValueError as error:
        raise RecipeError(f"distill.losses: {name}: {error}") from error
    if missing := [index for _, index in pairs if index >= layer_mapping.teacher_depth]:
        raise RecipeError(
            f"distill.losses: {name}: there is no layer {missing[0]}: the teacher has "
            f"{layer_mapping.teacher_depth}, counted from 0."
        )
    return pairs


def _projection_keys(name: str, loss: Loss, layer_pairs: Sequence[tuple[int, int]]) -> list[str]:
    """The keys of the projections to the teacher's width; they stand in checkpoints."""
    if "hidden_states" not in loss.needs:
        return []
    places = [str(own) for own, _ in layer_pairs] if loss.compares == "layers" else [loss.compares]
    # Checkpoints keep the name that `embedding_mse` had at first.
    name = name.replace("embedding_mse", "embeddings")
    return [f"{name}-{place}" for place in places]


def _term_name(index: int, losses: Sequence[Loss]) -> str:
    """The name of a loss in logs and tables: its kind, numbered where a kind occurs twice."""
    # Neither a module's name nor a column's may have a dot.
    kinds = [loss.kind.rpartition(":")[2].replace(".", "_") for loss in losses]
    kind = kinds[index]
    return kind if kinds.count(kind) == 1 else f"{kind}_{kinds[:index].count(kind)}"
