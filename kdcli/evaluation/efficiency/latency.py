"""Latency of single texts and throughput of batches."""

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
    """Time from text to label, tokenization included.

    Attributes:
        p50_ms: Median latency of one text at batch size 1, in milliseconds.
        p95_ms: 95th percentile of the latency, in milliseconds.
        texts_per_second: Throughput of the median batch of 32 texts.
    """

    p50_ms: float
    p95_ms: float
    texts_per_second: float


def count_timed_calls(num_texts: int) -> int:
    """Return how many calls of each model are timed, warm-up included."""
    return num_texts + min(num_texts, _NUM_WARM_UP_TEXTS) + 1 + _NUM_BATCHES


def count_timed_texts(num_texts: int) -> int:
    """Return how many texts each model reads in the timed calls, alone and in batches."""
    return count_timed_calls(num_texts) + (1 + _NUM_BATCHES) * (BATCH_SIZE - 1)


def measure_inference_speed(
    classifiers: Mapping[str, ClassifyFunction],
    texts: Sequence[Any],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, InferenceSpeed]:
    """Time several models on the same texts.

    The models take turns at every text and batch, so that changes in the machine's speed affect
    all of them.

    Args:
        classifiers: Functions from texts (or pairs) to labels, by model name.
        texts: Texts of the data, as latency depends on their length. They are repeated if they are
            too few for the batches.
        progress: Called as `progress(done, total)` between the timed calls.

    Returns:
        The speed of each model, by name.
    """
    single = [[text] for text in texts]
    repeated = itertools.cycle(texts)
    batches = [list(itertools.islice(repeated, BATCH_SIZE)) for _ in range(_NUM_BATCHES)]
    done, total = itertools.count(1), count_timed_calls(len(texts))

    def step() -> None:
        if progress is not None:
            progress(next(done), total)

    single_seconds = _time_interleaved(classifiers, single[:_NUM_WARM_UP_TEXTS], single, step)
    batch_seconds = _time_interleaved(classifiers, batches[:1], batches, step)
    return {
        name: _summarize_timings(single_seconds[name], batch_seconds[name]) for name in classifiers
    }


def _summarize_timings(
    single_text_seconds: Sequence[float], batch_seconds: Sequence[float]
) -> InferenceSpeed:
    p50, p95 = np.percentile(single_text_seconds, [50, 95]) * 1000
    return InferenceSpeed(float(p50), float(p95), float(BATCH_SIZE / np.median(batch_seconds)))


def _time_interleaved(
    classifiers: Mapping[str, ClassifyFunction],
    warm_up: Sequence[Any],
    batches: Sequence[Any],
    step: Callable[[], None],
) -> dict[str, list[float]]:
    for batch in warm_up:
        for classify in classifiers.values():
            classify(batch)
        step()
    seconds: dict[str, list[float]] = {name: [] for name in classifiers}
    for batch in batches:
        for name, classify in classifiers.items():
            start = time.perf_counter()
            classify(batch)
            seconds[name].append(time.perf_counter() - start)
        step()
    return seconds
