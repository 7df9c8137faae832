"""How long a classifier takes for one text."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_WARM_UP = 10


@dataclass(frozen=True)
class Latency:
    """Milliseconds from text to label at batch size 1, tokenising included."""

    p50: float
    p95: float


def measure(
    classify: Mapping[str, Callable[[Any], object]], texts: Sequence[Any]
) -> dict[str, Latency]:
    """Time several classifiers on the same texts.

    They take turns at every text, so that a machine that drifts doesn't favour one of them.

    Args:
        classify: A function from a text (or a pair) to its label, by the model's name.
        texts: Real ones: a model's time depends on their length.

    Returns:
        The percentiles, by the model's name.
    """
    for text in texts[:_WARM_UP]:
        for run in classify.values():
            run(text)
    times: dict[str, list[float]] = {name: [] for name in classify}
    for text in texts:
        for name, run in classify.items():
            start = time.perf_counter()
            run(text)
            times[name].append((time.perf_counter() - start) * 1000)
    return {
        name: Latency(*map(float, np.percentile(found, [50, 95]))) for name, found in times.items()
    }
