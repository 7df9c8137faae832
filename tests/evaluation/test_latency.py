"""Models on the clock."""

import time

import numpy as np
import pytest

from kdcli.evaluation.efficiency.latency import BATCH_SIZE, measure_inference_speed


def test_times_are_those_that_the_clock_shows(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def takes(seconds_of):
        def classify(texts):
            nonlocal now
            now += sum(map(seconds_of, texts))

        return classify

    classify = {"by length": takes(lambda text: 0.001 * len(text)), "same": takes(lambda _: 0.002)}
    lengths = [1, 2, 3, 4, 5, 10, 90]
    found = measure_inference_speed(classify, ["x" * length for length in lengths])
    assert found["by length"].p50_ms == pytest.approx(4)
    assert found["by length"].p95_ms == pytest.approx(np.quantile(lengths, 0.95))
    assert found["same"].p50_ms == pytest.approx(2)
    assert found["same"].p95_ms == pytest.approx(2)
    assert found["same"].texts_per_second == pytest.approx(500)


def test_the_slower_model_is_the_slower_one():
    classify = {"slow": lambda texts: time.sleep(0.004 * len(texts)), "fast": len}
    found = measure_inference_speed(classify, ["a text"] * 5)
    assert found["slow"].p50_ms >= 4
    assert found["slow"].p50_ms > found["fast"].p50_ms
    assert found["slow"].texts_per_second <= 250
    assert found["slow"].p50_ms <= found["slow"].p95_ms


def test_models_take_turns_on_the_clock():
    order = []
    classify = {n: lambda texts, n=n: order.append((n, tuple(texts))) for n in ("big", "small")}
    measure_inference_speed(classify, ["a", "b"])
    single = [turn for turn in order if len(turn[1]) == 1]
    assert single[-4:] == [("big", ("a",)), ("small", ("a",)), ("big", ("b",)), ("small", ("b",))]
    assert [name for name, _ in order] == ["big", "small"] * (len(order) // 2)


def test_a_batch_is_of_real_texts_however_few_there_are():
    batches = []
    measure_inference_speed({"model": batches.append}, ["a", "b", "c"])
    assert len(batches[-1]) == BATCH_SIZE
    assert {text for batch in batches for text in batch} == {"a", "b", "c"}
