"""The terms of a loss, for each task: from a recipe's settings and a batch to a number."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdcli.errors import RecipeError
from kdcli.recipe.losses import LossSpec, RampSpec
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from kdcli.training import losses
from kdcli.training.hard import HardLabels, labelled
from kdcli.training.states import Told

Term = Callable[[Any, "Batch"], Tensor]


@dataclass(frozen=True)
class Batch:
    """All that a term may look at."""

    student: Told
    teacher: Told
    labels: Tensor
    progress: float
    pairs: Sequence[tuple[int, int]]  # layers to compare, the student's and the teacher's
    project: Callable[[str, Tensor], Tensor]  # to the teacher's width
    hard: HardLabels
    task: Task
    depth: int  # the teacher's

    def now(self, setting: Any) -> float:
        """A setting's present value."""
        if isinstance(setting, RampSpec):
            return setting.start + (setting.end - setting.start) * self.progress
        return float(setting)

    @property
    def mask(self) -> Tensor:
        """Which of the student's tokens are no padding, (batch, tokens)."""
        assert self.student.mask is not None
        return self.student.mask


def _of_labelled(term: Term) -> Term:
    """The term's mean over all texts, where one without a label adds nothing."""

    def mean(spec: Any, batch: Batch) -> Tensor:
        if batch.hard.everywhere:
            return term(spec, batch)
        there = labelled(batch.labels, batch.task)
        if not there.any():
            return 0 * batch.student.logits.sum()
        logits = batch.student.logits[there]
        part = replace(
            batch, student=replace(batch.student, logits=logits), labels=batch.labels[there]
        )
        return term(spec, part) * there.float().mean()

    return mean


@_of_labelled
def _cross_entropy(spec: Any, batch: Batch) -> Tensor:
    logits, hard = batch.student.logits, batch.hard
    weights = None if hard.weights is None else hard.weights.to(logits)
    return losses.cross_entropy(
        logits, batch.labels, weights=weights, smoothing=hard.smoothing, focal=hard.focal
    )


def _soft_targets(spec: Any, batch: Batch) -> Tensor:
    logits, teacher = batch.student.logits, batch.teacher.logits
    if spec.standardise:
        logits, teacher = losses.standardised(logits), losses.standardised(teacher)
    return losses.soft_targets(logits, teacher, batch.now(spec.temperature))


@_of_labelled
def _binary_cross_entropy(spec: Any, batch: Batch) -> Tensor:
    logits, hard = batch.student.logits, batch.hard
    weights = None if hard.weights is None else hard.weights.to(logits)
    return losses.binary_cross_entropy(
        logits, batch.labels, weights=weights, smoothing=hard.smoothing, focal=hard.focal
    )


def _binary_soft_targets(spec: Any, batch: Batch) -> Tensor:
    return losses.binary_soft_targets(
        batch.student.logits, batch.teacher.logits, batch.now(spec.temperature)
    )


@_of_labelled
def _labels_mse(spec: Any, batch: Batch) -> Tensor:
    return losses.labels_mse(batch.student.logits, batch.labels)


def _logits_mse(spec: Any, batch: Batch) -> Tensor:
    return losses.logits_mse(batch.student.logits, batch.teacher.logits)


def _decoupled(spec: Any, batch: Batch) -> Tensor:
    # Of a text without a label the teacher's takes its place.
    labels = torch.where(
        labelled(batch.labels, batch.task), batch.labels, batch.teacher.logits.argmax(-1)
    )
    return losses.decoupled(
        batch.student.logits,
        batch.teacher.logits,
        labels,
        temperature=batch.now(spec.temperature),
        target=spec.target,
        others=spec.others,
    )


def _correlation(spec: Any, batch: Batch) -> Tensor:
    return losses.correlation(
        batch.student.logits,
        batch.teacher.logits,
        temperature=batch.now(spec.temperature),
        classes=spec.classes,
        texts=spec.texts,
    )


def _hidden(term: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Any, Batch], Tensor]:
    def mean(spec: Any, batch: Batch) -> Tensor:
        # The first of the hidden states is that of the embeddings.
        found = [
            term(
                batch.project(str(own), batch.student.hidden[own + 1]),
                batch.teacher.hidden[teachers + 1],
                batch.mask,
            )
            for own, teachers in batch.pairs
        ]
        return torch.stack(found).mean()

    return mean


def _embeddings(spec: Any, batch: Batch) -> Tensor:
    own = batch.project("embeddings", batch.student.hidden[0])
    return losses.hidden_mse(own, batch.teacher.hidden[0], batch.mask)


def _attention(spec: Any, batch: Batch) -> Tensor:
    found = [
        losses.attention(batch.student.attentions[own], batch.teacher.attentions[other], batch.mask)
        for own, other in batch.pairs
    ]
    return torch.stack(found).mean()


def _relations(spec: Any, batch: Batch) -> Tensor:
    ((own, other),) = batch.pairs
    found = [
        losses.relation(states[own], batch.teacher.relations[part][other], batch.mask, spec.heads)
        for part, states in batch.student.relations.items()
    ]
    return torch.stack(found).mean()


def _contrastive(spec: Any, batch: Batch) -> Tensor:
    own = losses.mean_pooled(batch.student.hidden[-1], batch.mask)
    teachers = losses.mean_pooled(batch.teacher.hidden[batch.depth], batch.mask)
    return losses.contrastive(batch.project("pooled", own), teachers, spec.temperature)


_WITHIN: Mapping[str, Term] = {
    "logits_mse": _logits_mse,
    "hidden_mse": _hidden(losses.hidden_mse),
    "hidden_cosine": _hidden(losses.hidden_cosine),
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


def refuse_unfit(specs: Sequence[LossSpec], task: Task) -> None:
    """See that each term means something for the task.

    Raises:
        RecipeError: One doesn't.
    """
    for spec in specs:
        kind = kind_of(spec)
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


def kind_of(spec: LossSpec) -> str:
    """What the recipe calls a term."""
    kind: str = spec.kind  # type: ignore[attr-defined]
    return kind
