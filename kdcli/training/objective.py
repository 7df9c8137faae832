"""From a recipe's losses to the function that a training step calls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcli.errors import RecipeError
from kdcli.recipe.fit import FitSpec
from kdcli.recipe.losses import (
    ContrastiveSpec,
    EmbeddingsSpec,
    HiddenCosineSpec,
    HiddenMseSpec,
    LayersSpec,
    LossSpec,
    RampSpec,
    RelationsSpec,
)
from kdcli.training import losses
from kdcli.training.states import Told

# What a term asks of the teacher: nothing, or more than its logits.
_NEEDS: Mapping[str, str | None] = {
    "cross_entropy": None,
    "hidden_mse": "hidden",
    "hidden_cosine": "hidden",
    "embeddings": "hidden",
    "contrastive": "hidden",
    "attention": "attentions",
    "relations": "relations",
}
LIVE = frozenset({"hidden", "attentions", "relations"})


def needs(specs: Sequence[LossSpec]) -> frozenset[str]:
    """What the terms ask of the teacher, known before a model is loaded.

    Returns:
        Some of `logits`, which are read from disk, and `hidden`, `attentions` and `relations`, for
        which the teacher has to run beside the student.
    """
    asked = (_NEEDS.get(_kind(spec), "logits") for spec in specs if spec.counts)
    return frozenset(need for need in asked if need is not None)


@dataclass(frozen=True)
class Shapes:
    """What an objective has to know of two models whose insides it compares.

    Attributes:
        width: The student's hidden width.
        teacher_width: The teacher's.
        layers: For each of the student's layers the teacher's to compare it with, from 0.
        teacher_depth: How many layers the teacher has.
    """

    width: int
    teacher_width: int
    layers: tuple[int, ...]
    teacher_depth: int


@dataclass(frozen=True)
class _Batch:
    """All that a term may look at."""

    student: Told
    teacher: Told
    labels: Tensor
    progress: float
    pairs: Sequence[tuple[int, int]]  # layers to compare, the student's and the teacher's
    project: Callable[[str, Tensor], Tensor]  # to the teacher's width
    hard: "HardLabels"
    depth: int  # the teacher's

    def now(self, setting: Any) -> float:
        """A setting's present value."""
        if isinstance(setting, RampSpec):
            return setting.start + (setting.end - setting.start) * self.progress
        return float(setting)

    @property
    def mask(self) -> Tensor:
        assert self.student.mask is not None
        return self.student.mask


@dataclass(frozen=True)
class HardLabels:
    """How the data's own labels count: see `losses.cross_entropy`."""

    smoothing: float = 0.0
    focal: float = 0.0
    weights: Tensor | None = None


def hard_labels(spec: FitSpec, labels: Sequence[int], classes: int) -> HardLabels:
    """What a fit says of its labels.

    Args:
        spec: Smoothing, focus, and whether classes count alike.
        labels: Those of the training texts.
        classes: How many there are.
    """
    weights = None
    if spec.class_weights == "balanced":
        texts = torch.bincount(torch.tensor(labels), minlength=classes)
        weights = len(labels) / (torch.count_nonzero(texts) * texts.clamp_min(1))
    return HardLabels(spec.label_smoothing, spec.focal, weights)


class Objective(nn.Module):
    """The weighted terms of a loss; a module, for it may have projections to learn.

    Args:
        specs: The recipe's losses.
        shapes: Of the models, where a term compares what lies within them.
        hard: How the data's labels count.

    Raises:
        RecipeError: A term names a layer that a model hasn't got, or heads that don't fit.
    """

    def __init__(
        self,
        specs: Sequence[LossSpec],
        shapes: Shapes | None = None,
        hard: HardLabels = HardLabels(),
    ) -> None:
        super().__init__()
        self.hard = hard
        self.needs = needs(specs)
        self.terms = [(_name(i, specs), spec) for i, spec in enumerate(specs) if spec.counts]
        self.pairs = {name: _pairs(name, spec, shapes) for name, spec in self.terms}
        self.depth = 0 if shapes is None else shapes.teacher_depth
        self.projections = nn.ModuleDict()
        if shapes is not None and shapes.width != shapes.teacher_width:
            for name, spec in self.terms:
                for place in _projected(spec, self.pairs[name]):
                    layer = nn.Linear(shapes.width, shapes.teacher_width)
                    self.projections[f"{name}-{place}"] = layer

    def forward(
        self, student: Told, teacher: Told, labels: Tensor, progress: float = 0.0
    ) -> dict[str, Tensor]:
        """Each weighted term by name: their sum is the loss.

        Args:
            student: What the student makes of the batch.
            teacher: What the teacher does, as far as `needs` asks for it.
            labels: Class ids, (batch,).
            progress: How much of the training is done, from 0 to 1.
        """
        terms = {}
        for name, spec in self.terms:

            def project(place: str, states: Tensor, name: str = name) -> Tensor:
                key = f"{name}-{place}"
                return self.projections[key](states) if key in self.projections else states

            batch = _Batch(
                student, teacher, labels, progress, self.pairs[name], project, self.hard, self.depth
            )
            terms[name] = batch.now(spec.weight) * _TERMS[_kind(spec)](spec, batch)
        return terms

    @property
    def teacher_places(self) -> list[int]:
        """Which of the teacher's hidden states are read; 0 is the embeddings' output."""
        found: set[int] = set()
        for name, spec in self.terms:
            if isinstance(spec, EmbeddingsSpec):
                found.add(0)
            elif isinstance(spec, ContrastiveSpec):
                found.add(self.depth)
            elif isinstance(spec, HiddenMseSpec | HiddenCosineSpec):
                found |= {other + 1 for _, other in self.pairs[name]}
        return sorted(found)


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss: the sum of the weighted terms, a scalar."""
    return torch.stack(tuple(terms.values())).sum()


def _cross_entropy(spec: Any, batch: _Batch) -> Tensor:
    logits, hard = batch.student.logits, batch.hard
    weights = None if hard.weights is None else hard.weights.to(logits)
    return losses.cross_entropy(
        logits, batch.labels, weights=weights, smoothing=hard.smoothing, focal=hard.focal
    )


def _soft_targets(spec: Any, batch: _Batch) -> Tensor:
    logits, teacher = batch.student.logits, batch.teacher.logits
    if spec.standardise:
        logits, teacher = losses.standardised(logits), losses.standardised(teacher)
    return losses.soft_targets(logits, teacher, batch.now(spec.temperature))


def _logits_mse(spec: Any, batch: _Batch) -> Tensor:
    return losses.logits_mse(batch.student.logits, batch.teacher.logits)


def _decoupled(spec: Any, batch: _Batch) -> Tensor:
    return losses.decoupled(
        batch.student.logits,
        batch.teacher.logits,
        batch.labels,
        temperature=batch.now(spec.temperature),
        target=spec.target,
        others=spec.others,
    )


def _correlation(spec: Any, batch: _Batch) -> Tensor:
    return losses.correlation(
        batch.student.logits,
        batch.teacher.logits,
        temperature=batch.now(spec.temperature),
        classes=spec.classes,
        texts=spec.texts,
    )


def _hidden(term: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Any, _Batch], Tensor]:
    def mean(spec: Any, batch: _Batch) -> Tensor:
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


def _embeddings(spec: Any, batch: _Batch) -> Tensor:
    own = batch.project("embeddings", batch.student.hidden[0])
    return losses.hidden_mse(own, batch.teacher.hidden[0], batch.mask)


def _attention(spec: Any, batch: _Batch) -> Tensor:
    found = [
        losses.attention(batch.student.attentions[own], batch.teacher.attentions[other], batch.mask)
        for own, other in batch.pairs
    ]
    return torch.stack(found).mean()


def _relations(spec: Any, batch: _Batch) -> Tensor:
    ((own, other),) = batch.pairs
    found = [
        losses.relation(states[own], batch.teacher.relations[part][other], batch.mask, spec.heads)
        for part, states in batch.student.relations.items()
    ]
    return torch.stack(found).mean()


def _contrastive(spec: Any, batch: _Batch) -> Tensor:
    own = losses.mean_pooled(batch.student.hidden[-1], batch.mask)
    teachers = losses.mean_pooled(batch.teacher.hidden[batch.depth], batch.mask)
    return losses.contrastive(batch.project("pooled", own), teachers, spec.temperature)


_TERMS: Mapping[str, Callable[[Any, _Batch], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "soft_targets": _soft_targets,
    "logits_mse": _logits_mse,
    "decoupled": _decoupled,
    "correlation": _correlation,
    "hidden_mse": _hidden(losses.hidden_mse),
    "hidden_cosine": _hidden(losses.hidden_cosine),
    "embeddings": _embeddings,
    "attention": _attention,
    "relations": _relations,
    "contrastive": _contrastive,
}


def _pairs(name: str, spec: LossSpec, shapes: Shapes | None) -> list[tuple[int, int]]:
    """The student's layers and the teacher's that a term compares."""
    if shapes is None or _NEEDS.get(_kind(spec)) not in LIVE:
        return []
    depth = len(shapes.layers)
    if isinstance(spec, RelationsSpec):
        last = shapes.teacher_depth - 1
        pairs = [(depth - 1, last if spec.layer is None else spec.layer)]
        for owner, width in (("student", shapes.width), ("teacher", shapes.teacher_width)):
            if width % spec.heads:
                raise RecipeError(
                    f"distill.losses: {name}: {spec.heads} heads don't divide the {owner}'s width "
                    f"of {width}."
                )
    else:
        chosen = spec.layers if isinstance(spec, LayersSpec) and spec.layers else shapes.layers
        pairs = list(enumerate(chosen))
        if len(chosen) != depth:
            raise RecipeError(
                f"distill.losses: {name}: layers names {len(chosen)} layers, and the student has "
                f"{depth}: give the teacher's for each of them."
            )
    beyond = [other for _, other in pairs if other >= shapes.teacher_depth]
    if beyond:
        raise RecipeError(
            f"distill.losses: {name}: there is no layer {beyond[0]}: the teacher has "
            f"{shapes.teacher_depth}, counted from 0."
        )
    return pairs


def _projected(spec: LossSpec, pairs: Sequence[tuple[int, int]]) -> list[str]:
    """The places whose states have to be brought to the teacher's width."""
    if isinstance(spec, EmbeddingsSpec):
        return ["embeddings"]
    if isinstance(spec, ContrastiveSpec):
        return ["pooled"]
    hidden = isinstance(spec, HiddenMseSpec | HiddenCosineSpec)
    return [str(own) for own, _ in pairs] if hidden else []


def _kind(spec: LossSpec) -> str:
    kind: str = spec.kind  # type: ignore[attr-defined]
    return kind


def _name(place: int, specs: Sequence[LossSpec]) -> str:
    kinds = [_kind(spec) for spec in specs]
    kind = kinds[place]
    return kind if kinds.count(kind) == 1 else f"{kind}_{kinds[:place].count(kind)}"
