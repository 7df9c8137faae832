"""The kinds of black boxes: what each looks at beforehand, is fitted to, and answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.data.labels import listed
from kdcli.errors import RecipeError
from kdcli.progress import Tally
from kdcli.recipe.black_box import BlackBox, DescribedSpec
from kdcli.recipe.data import DataSpec
from kdcli.recipe.losses import LossSpec
from kdcli.tasks import REGRESSION
from kdcli.teachers import embeddings, endpoint, function, scores, zero_shot
from kdcli.teachers.asked import Asking, Setting
from kdcli.training.objective import LIVE, needs
from kdcli.training.terms import kind_of


@dataclass(frozen=True)
class Kind:
    """What a black box can do; each takes its part of the recipe and a `Setting`.

    Attributes:
        check: Says before anything is done what can't be.
        opened: Loads what answering needs, and gives what answers.
        fit: Fits it to the training texts, where it has something to fit.
        labels: The labels that it knows by itself, where the data has none; None where it has to
            be told them.
    """

    check: Callable[[Any, Setting], None]
    opened: Callable[[Any, Setting], Asking]
    fit: Callable[[Any, Setting], None] = lambda spec, setting: None
    labels: Callable[[Any, DataSpec], tuple[str, ...]] | None = None


def _described(spec: DescribedSpec, data: DataSpec) -> tuple[str, ...]:
    return tuple(spec.descriptions)


KINDS = {
    "scores": Kind(scores.check, scores.opened, labels=scores.labels),
    "zero_shot": Kind(zero_shot.check, zero_shot.opened, labels=_described),
    "embeddings": Kind(embeddings.check, embeddings.opened, embeddings.fit),
    "endpoint": Kind(endpoint.check, endpoint.opened, labels=_described),
    "function": Kind(function.check, function.opened),
}


def labels(spec: BlackBox, data: DataSpec) -> tuple[str, ...]:
    """The labels that it gives to texts without labels.

    Raises:
        KdError: It knows none by itself, or too few.
    """
    known = KINDS[spec.kind].labels
    if known is None:
        raise RecipeError(
            f"data.label is null, and a teacher of kind {spec.kind} has its labels from the data.",
            "Name the column of the labels, or take a teacher that knows its own.",
        )
    found = known(spec, data)
    if len(found) < 2 and data.task != REGRESSION.name:
        raise RecipeError(
            "data.label is null, so that the teacher names the labels, and it names fewer than two."
        )
    return found


def check(spec: BlackBox, setting: Setting, losses: Sequence[LossSpec]) -> None:
    """See that a student can learn from it.

    Raises:
        KdError: It can't: what the teacher needs is missing, or a loss asks for more than answers.
    """
    if live := [kind_of(loss) for loss in losses if needs([loss]) & LIVE]:
        raise RecipeError(
            f"distill.losses: {live[0]} compares what is inside of two models, and the teacher "
            "gives answers alone.",
            "Use losses of logits, such as soft_targets.",
        )
    labels = setting.corpus.labels
    described = spec.descriptions if isinstance(spec, DescribedSpec) else {}
    if unknown := [label for label in described if label not in labels]:
        raise RecipeError(
            f"teacher.descriptions: the data has no label {unknown[0]!r}: it has {listed(labels)}."
        )
    KINDS[spec.kind].check(spec, setting)


def fit(spec: BlackBox, setting: Setting) -> None:
    """Fit it to the training texts, where it has something to fit."""
    KINDS[spec.kind].fit(spec, setting)


def answers(spec: BlackBox, setting: Setting, parts: Sequence[str]) -> dict[str, np.ndarray]:
    """Its logits for the texts of some splits, (texts, labels) each.

    Raises:
        KdError: It can't answer, and what to do about it.
    """
    splits = {part: setting.corpus.splits[part] for part in parts}
    advance = Tally(setting.reporter, sum(map(len, splits.values())))

    def tell(rows: int) -> Callable[[int, int], None]:
        # An answer may stand for several texts, or several for one.
        return lambda done, total: advance(rows * done // total, rows)

    ask = KINDS[spec.kind].opened(spec, setting)
    return {part: ask(split, tell(len(split))) for part, split in splits.items()}
