"""From a recipe's losses to the function that a training step calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcli.errors import RecipeError
from kdcli.recipe.losses import (
    ContrastiveSpec,
    EmbeddingsSpec,
    HiddenCosineSpec,
    HiddenMseSpec,
    LayersSpec,
    LossSpec,
    RelationsSpec,
)
from kdcli.tasks import SINGLE_LABEL, Task
from kdcli.training.hard import HardLabels
from kdcli.training.states import Told
from kdcli.training.terms import TERMS, Batch, kind_of, refuse_unfit

# What a term asks of the teacher: nothing, or more than its logits.
_NEEDS: Mapping[str, str | None] = {
    "cross_entropy": None,
    "labels_mse": None,
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
    asked = (_NEEDS.get(kind_of(spec), "logits") for spec in specs if spec.counts)
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


class Objective(nn.Module):
    """The weighted terms of a loss; a module, for it may have projections to learn.

    Args:
        specs: The recipe's losses.
        shapes: Of the models, where a term compares what lies within them.
        hard: How the data's labels count.
        task: What the labels are.

    Raises:
        RecipeError: A term isn't for the task, names a layer that a model hasn't got, or heads that
            don't fit.
    """

    def __init__(
        self,
        specs: Sequence[LossSpec],
        shapes: Shapes | None = None,
        hard: HardLabels = HardLabels(),
        task: Task = SINGLE_LABEL,
    ) -> None:
        super().__init__()
        refuse_unfit(specs, task)
        self.hard, self.task = hard, task
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
            labels: Class ids or scores, (batch,), or 0 and 1 for each label, (batch, labels).
            progress: How much of the training is done, from 0 to 1.
        """
        terms = {}
        for name, spec in self.terms:

            def project(place: str, states: Tensor, name: str = name) -> Tensor:
                key = f"{name}-{place}"
                return self.projections[key](states) if key in self.projections else states

            batch = Batch(
                student,
                teacher,
                labels,
                progress,
                self.pairs[name],
                project,
                self.hard,
                self.task,
                self.depth,
            )
            terms[name] = batch.now(spec.weight) * TERMS[self.task.name][kind_of(spec)](spec, batch)
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


def _pairs(name: str, spec: LossSpec, shapes: Shapes | None) -> list[tuple[int, int]]:
    """The student's layers and the teacher's that a term compares."""
    if shapes is None or _NEEDS.get(kind_of(spec)) not in LIVE:
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


def _name(place: int, specs: Sequence[LossSpec]) -> str:
    kinds = [kind_of(spec) for spec in specs]
    kind = kinds[place]
    return kind if kinds.count(kind) == 1 else f"{kind}_{kinds[:place].count(kind)}"
