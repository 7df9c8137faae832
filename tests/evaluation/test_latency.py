"""Models on the clock."""

import time

import numpy as np
import pytest

from kdcli.evaluation.latency import BATCH, measure


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
    found = measure(classify, ["x" * length for length in lengths])
    assert found["by length"].p50 == pytest.approx(4)
    assert found["by length"].p95 == pytest.approx(np.quantile(lengths, 0.95))
    assert found["same"].p50 == pytest.approx(2)
    assert found["same"].p95 == pytest.approx(2)
    assert found["same"].texts_per_second == pytest.approx(500)


def test_the_slower_model_is_the_slower_one():
    classify = {"slow": lambda texts: time.sleep(0.004 * len(texts)), "fast": len}
    found = measure(classify, ["a text"] * 5)
    assert found["slow"].p50 >= 4
    assert found["slow"].p50 > found["fast"].p50
    assert found["slow"].texts_per_second <= 250
    assert found["slow"].p50 <= found["slow"].p95


def test_models_take_turns_on_the_clock():
    order = []
    classify = {n: lambda texts, n=n: order.append((n, tuple(texts))) for n in ("big", "small")}
    measure(classify, ["a", "b"])
    single = [turn for turn in order if len(turn[1]) == 1]
    assert single[-4:] == [("big", ("a",)), ("small", ("a",)), ("big", ("b",)), ("small", ("b",))]
    assert [name for name, _ in order] == ["big", "small"] * (len(order) // 2)


def test_a_batch_is_of_real_texts_however_few_there_are():
    batches = []
    measure({"model": batches.append}, ["a", "b", "c"])
    assert len(batches[-1]) == BATCH
    assert {text for batch in batches for text in batch} == {"a", "b", "c"}
