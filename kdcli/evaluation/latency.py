"""How long classifiers take: for one text, and for many at once."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCH = 32
_WARM_UP = 10
_BATCHES = 8

Classify = Callable[[Sequence[Any]], object]


@dataclass(frozen=True)
class Speed:
    """From text to label, tokenising included.

    Attributes:
        p50: Median of the milliseconds that one text takes at batch size 1.
        p95: What 95 % of the texts take less than.
        texts_per_second: In batches of 32, by the median batch.
    """

    p50: float
    p95: float
    texts_per_second: float


def measure(classify: Mapping[str, Classify], texts: Sequence[Any]) -> dict[str, Speed]:
    """Time several classifiers on the same texts.

    They take turns at every text and batch, so that a machine that drifts doesn't favour one of
    them.

    Args:
        classify: A function from texts (or pairs) to their labels, by the model's name.
        texts: Real ones: a model's time depends on their length. They are taken again and again
            where they are too few for the batches.

    Returns:
        The times, by the model's name.
    """
    single = [[text] for text in texts]
    endless = itertools.cycle(texts)
    batches = [list(itertools.islice(endless, BATCH)) for _ in range(_BATCHES)]
    one = _in_turn(classify, single[:_WARM_UP], single)
    many = _in_turn(classify, batches[:1], batches)
    return {name: _speed(one[name], many[name]) for name in classify}


def _speed(one: Sequence[float], many: Sequence[float]) -> Speed:
    p50, p95 = np.percentile(one, [50, 95]) * 1000
    return Speed(float(p50), float(p95), float(BATCH / np.median(many)))


def _in_turn(
    classify: Mapping[str, Classify], warm_up: Sequence[Any], batches: Sequence[Any]
) -> dict[str, list[float]]:
    for batch in warm_up:
        for run in classify.values():
            run(batch)
    seconds: dict[str, list[float]] = {name: [] for name in classify}
    for batch in batches:
        for name, run in classify.items():
            start = time.perf_counter()
            run(batch)
            seconds[name].append(time.perf_counter() - start)
    return seconds
