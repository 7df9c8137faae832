"""The terms of a loss, for each task: from a recipe's settings and a batch to a number."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdcli.errors import RecipeError
from kdcli.recipe.losses import LinearRampConfig, LossConfig
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from kdcli.training import losses
from kdcli.training.label_loss import LabelLossOptions, has_label_mask
from kdcli.training.model_outputs import ModelOutputs

Term = Callable[[Any, "LossInputs"], Tensor]


@dataclass(frozen=True)
class LossInputs:
    """All that a term may look at."""

    student: ModelOutputs
    teacher: ModelOutputs
    labels: Tensor
    progress: float
    layer_pairs: Sequence[tuple[int, int]]  # layers to compare, the student's and the teacher's
    project: Callable[[str, Tensor], Tensor]  # to the teacher's width
    label_options: LabelLossOptions
    task: Task
    teacher_depth: int  # the teacher's

    def scheduled_value(self, value: Any) -> float:
        """A setting's present value."""
        if isinstance(value, LinearRampConfig):
            return value.start + (value.end - value.start) * self.progress
        return float(value)

    @property
    def attention_mask(self) -> Tensor:
        """Which of the student's tokens are no padding, (batch, tokens)."""
        assert self.student.attention_mask is not None
        return self.student.attention_mask


def _of_labelled(term: Term) -> Term:
    """The term's mean over all texts, where one without a label adds nothing."""

    def mean(spec: Any, batch: LossInputs) -> Tensor:
        if batch.label_options.all_labelled:
            return term(spec, batch)
        there = has_label_mask(batch.labels, batch.task)
        if not there.any():
            return 0 * batch.student.logits.sum()
        logits = batch.student.logits[there]
        part = replace(
            batch, student=replace(batch.student, logits=logits), labels=batch.labels[there]
        )
        return term(spec, part) * there.float().mean()

    return mean


@_of_labelled
def _cross_entropy(spec: Any, batch: LossInputs) -> Tensor:
    logits, hard = batch.student.logits, batch.label_options
    weights = None if hard.class_weights is None else hard.class_weights.to(logits)
    return losses.cross_entropy(
        logits,
        batch.labels,
        class_weights=weights,
        label_smoothing=hard.label_smoothing,
        focal_gamma=hard.focal_gamma,
    )


def _soft_targets(spec: Any, batch: LossInputs) -> Tensor:
    logits, teacher = batch.student.logits, batch.teacher.logits
    if spec.standardise:
        logits, teacher = losses.standardise_logits(logits), losses.standardise_logits(teacher)
    return losses.soft_target_kl(logits, teacher, batch.scheduled_value(spec.temperature))


@_of_labelled
def _binary_cross_entropy(spec: Any, batch: LossInputs) -> Tensor:
    logits, hard = batch.student.logits, batch.label_options
    weights = None if hard.class_weights is None else hard.class_weights.to(logits)
    return losses.binary_cross_entropy(
        logits,
        batch.labels,
        class_weights=weights,
        label_smoothing=hard.label_smoothing,
        focal_gamma=hard.focal_gamma,
    )


def _binary_soft_targets(spec: Any, batch: LossInputs) -> Tensor:
    return losses.binary_soft_target_kl(
        batch.student.logits, batch.teacher.logits, batch.scheduled_value(spec.temperature)
    )


@_of_labelled
def _labels_mse(spec: Any, batch: LossInputs) -> Tensor:
    return losses.labels_mse(batch.student.logits, batch.labels)


def _logits_mse(spec: Any, batch: LossInputs) -> Tensor:
    return losses.logits_mse(batch.student.logits, batch.teacher.logits)


def _decoupled(spec: Any, batch: LossInputs) -> Tensor:
    # Of a text without a label the teacher's takes its place.
    labels = torch.where(
        has_label_mask(batch.labels, batch.task), batch.labels, batch.teacher.logits.argmax(-1)
    )
    return losses.decoupled_kd_loss(
        batch.student.logits,
        batch.teacher.logits,
        labels,
        temperature=batch.scheduled_value(spec.temperature),
        target_weight=spec.target,
        non_target_weight=spec.others,
    )


def _correlation(spec: Any, batch: LossInputs) -> Tensor:
    return losses.dist_correlation_loss(
        batch.student.logits,
        batch.teacher.logits,
        temperature=batch.scheduled_value(spec.temperature),
        inter_class_weight=spec.classes,
        intra_class_weight=spec.texts,
    )


def _hidden(
    term: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Callable[[Any, LossInputs], Tensor]:
    def mean(spec: Any, batch: LossInputs) -> Tensor:
        # The first of the hidden states is that of the embeddings.
        found = [
            term(
                batch.project(str(own), batch.student.hidden_states[own + 1]),
                batch.teacher.hidden_states[teachers + 1],
                batch.attention_mask,
            )
            for own, teachers in batch.layer_pairs
        ]
        return torch.stack(found).mean()

    return mean


def _embeddings(spec: Any, batch: LossInputs) -> Tensor:
    own = batch.project("embeddings", batch.student.hidden_states[0])
    return losses.hidden_state_mse(own, batch.teacher.hidden_states[0], batch.attention_mask)


def _attention(spec: Any, batch: LossInputs) -> Tensor:
    found = [
        losses.attention_kl(
            batch.student.attentions[own], batch.teacher.attentions[other], batch.attention_mask
        )
        for own, other in batch.layer_pairs
    ]
    return torch.stack(found).mean()


def _relations(spec: Any, batch: LossInputs) -> Tensor:
    ((own, other),) = batch.layer_pairs
    found = [
        losses.qkv_relation_kl(
            states[own], batch.teacher.qkv[part][other], batch.attention_mask, spec.heads
        )
        for part, states in batch.student.qkv.items()
    ]
    return torch.stack(found).mean()


def _contrastive(spec: Any, batch: LossInputs) -> Tensor:
    own = losses.mean_pool(batch.student.hidden_states[-1], batch.attention_mask)
    teachers = losses.mean_pool(
        batch.teacher.hidden_states[batch.teacher_depth], batch.attention_mask
    )
    return losses.contrastive_loss(batch.project("pooled", own), teachers, spec.temperature)


_WITHIN: Mapping[str, Term] = {
    "logits_mse": _logits_mse,
    "hidden_mse": _hidden(losses.hidden_state_mse),
    "hidden_cosine": _hidden(losses.hidden_state_cosine_distance),
    "embeddings": _embeddings,
    "attention": _attention,
    "relations": _relations,
    "contrastive": _contrastive,
}
# By task and kind. What isn't there has no meaning for the task.
TERMS: Mapping[str, Mapping[str, Term]] = {
    SINGLE_LABEL.name: {
        "cross_entropy": _cross_entropy,
        "soft_targets": _soft_targets,
        "decoupled": _decoupled,
        "correlation": _correlation,
        **_WITHIN,
    },
    MULTI_LABEL.name: {
        "cross_entropy": _binary_cross_entropy,
        "soft_targets": _binary_soft_targets,
        **_WITHIN,
    },
    REGRESSION.name: {"labels_mse": _labels_mse, **_WITHIN},
}
_WHY = {
    "cross_entropy": "it compares probabilities, and a score has none",
    "soft_targets": "it compares probabilities, and a score has none",
    "labels_mse": "it compares scores, and the labels are names",
    "decoupled": "it sets one label against all others",
    "correlation": "it compares the labels of a text with one another",
}


def check_losses_for_task(loss_configs: Sequence[LossConfig], task: Task) -> None:
    """See that each term means something for the task.

    Raises:
        RecipeError: One doesn't.
    """
    for spec in loss_configs:
        kind = loss_kind(spec)
        known = TERMS[task.name]
        if kind not in known:
            raise RecipeError(
                f"distill.losses: {kind} is not for {task}: {_WHY[kind]}.",
                f"Losses for it: {', '.join(known)}.",
            )
        if task is MULTI_LABEL and getattr(spec, "standardise", False):
            raise RecipeError(
                f"distill.losses: {kind}: standardise is not for {task}: whether a label is there "
                "is in how high its logit is."
            )


def loss_kind(loss_config: LossConfig) -> str:
    """What the recipe calls a term."""
    kind: str = loss_config.kind  # type: ignore[attr-defined]
    return kind
