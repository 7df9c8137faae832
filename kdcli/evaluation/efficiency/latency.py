"""How long classifiers take: for one text, and for many at once."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCH_SIZE = 32
_NUM_WARM_UP_TEXTS = 10
_NUM_BATCHES = 8

ClassifyFunction = Callable[[Sequence[Any]], object]


@dataclass(frozen=True)
class InferenceSpeed:
    """From text to label, tokenising included.

    Attributes:
        p50_ms: Median of the milliseconds that one text takes at batch size 1.
        p95_ms: What 95 % of the texts take less than.
        texts_per_second: In batches of 32, by the median batch.
    """

    p50_ms: float
    p95_ms: float
    texts_per_second: float


def measure_inference_speed(
    classifiers: Mapping[str, ClassifyFunction], texts: Sequence[Any]
) -> dict[str, InferenceSpeed]:
    """Time several classifiers on the same texts.

    They take turns at every text and batch, so that a machine that drifts doesn't favour one of
    them.

    Args:
        classifiers: A function from texts (or pairs) to their labels, by the model's name.
        texts: Real ones: a model's time depends on their length. They are taken again and again
            where they are too few for the batches.

    Returns:
        The times, by the model's name.
    """
    single = [[text] for text in texts]
    endless = itertools.cycle(texts)
    batches = [list(itertools.islice(endless, BATCH_SIZE)) for _ in range(_NUM_BATCHES)]
    one = _time_interleaved(classifiers, single[:_NUM_WARM_UP_TEXTS], single)
    many = _time_interleaved(classifiers, batches[:1], batches)
    return {name: _summarize_timings(one[name], many[name]) for name in classifiers}


def _summarize_timings(
    single_text_seconds: Sequence[float], batch_seconds: Sequence[float]
) -> InferenceSpeed:
    p50, p95 = np.percentile(single_text_seconds, [50, 95]) * 1000
    return InferenceSpeed(float(p50), float(p95), float(BATCH_SIZE / np.median(batch_seconds)))


def _time_interleaved(
    classifiers: Mapping[str, ClassifyFunction], warm_up: Sequence[Any], batches: Sequence[Any]
) -> dict[str, list[float]]:
    for batch in warm_up:
        for run in classifiers.values():
            run(batch)
    seconds: dict[str, list[float]] = {name: [] for name in classifiers}
    for batch in batches:
        for name, run in classifiers.items():
            start = time.perf_counter()
            run(batch)
            seconds[name].append(time.perf_counter() - start)
    return seconds
