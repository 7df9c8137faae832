"""All figures of one model, on texts of any kind."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from kdcli.evaluation.calibration import inference_config, out_of_scope_threshold
from kdcli.evaluation.metrics.metric_catalog import HIGHER_IS_BETTER_BY_TASK
from kdcli.evaluation.metrics.single_label import (
    compute_metrics,
    metrics_at_out_of_scope_thresholds,
)
from kdcli.evaluation.predict.predictions import GroundTruth, Predictions
from kdcli.evaluation.uncertainty.bootstrap import BootstrapResamples

FIGURES = HIGHER_IS_BETTER_BY_TASK["single_label_classification"]


class Whole(BootstrapResamples):
    """One draw: every text once, so that a resampled figure is the figure."""

    def __init__(self, texts):
        self._draw_counts = np.ones((1, texts), dtype=np.uint8)


def made(texts, classes, outside, tuned, seed, resamples=Whole):
    random = np.random.default_rng(seed)
    references = random.integers(0, classes, texts)
    logits = random.normal(size=(2, texts, classes)).astype(np.float32)
    logits[:, np.arange(texts), references] += 2 * (random.random((2, texts)) < 0.7)
    points = []
    if tuned and outside is not None:
        points = out_of_scope_threshold.choose_out_of_scope_thresholds(
            logits[0], references, outside, "x", [0.1, 0.5]
        )
    chosen = inference_config.Calibration(1.7, points[0] if points else None) if tuned else None
    truth = GroundTruth(references, tuple(map(str, range(classes))), outside, resamples(texts))
    mine, other = (Predictions(one, chosen) for one in logits)
    return truth, mine, other, points


CASES = {
    "texts": st.integers(1, 60),
    "classes": st.integers(2, 8),
    "outside": st.sampled_from([None, 0, 1]),
    "tuned": st.booleans(),
    "seed": st.integers(0, 10_000),
}


@given(**CASES)
@examples(20)
def test_every_draw_is_of_the_figure_of_its_name(texts, classes, outside, tuned, seed):
    """A resample that has every text once gives the figure itself, to float32's accuracy."""
    truth, mine, other, _ = made(texts, classes, outside, tuned, seed)
    found = compute_metrics(truth, mine, other)
    assert found.values.keys() <= FIGURES.keys()
    for name, value in found.values.items():
        assert found.resampled_values[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert np.isfinite(list(found.values.values())).all()
    json.dumps([found.values, found.details], allow_nan=False)


@given(**CASES)
@examples(20)
def test_shares_are_shares(texts, classes, outside, tuned, seed):
    truth, mine, other, points = made(texts, classes, outside, tuned, seed)
    found = compute_metrics(truth, mine, other)
    unbounded = {"log_loss", "log_loss_calibrated", "kl", "brier", "brier_calibrated"}
    for name, value in found.values.items():
        assert value >= -1e-12, name
        assert value <= 1 + 1e-12 or name in unbounded, name
    for row in metrics_at_out_of_scope_thresholds(truth, mine, points) if points else ():
        assert 0 <= row["accuracy"] <= 1


def test_a_perfect_model():
    references = np.arange(60) % 6
    logits = np.where(np.eye(6)[references], 30, 0).astype(np.float32)
    (point,) = out_of_scope_threshold.choose_out_of_scope_thresholds(
        logits, references, 0, "x", [0.0]
    )
    truth = GroundTruth(references, tuple("abcdef"), 0, BootstrapResamples(60))
    said = Predictions(logits, inference_config.Calibration(1.0, point))
    found = compute_metrics(truth, said, said).values
    perfect = {name: 1.0 if better else 0.0 for name, better in FIGURES.items()}
    # It has no errors to agree in, and nothing to repair.
    del perfect["agreement_where_it_errs"]
    assert found == pytest.approx(perfect | {"positive_flip_rate": 0.0}, abs=1e-6)


def test_one_that_guesses():
    random = np.random.default_rng(0)
    references = random.integers(0, 10, 20_000)
    logits = random.normal(size=(20_000, 10)).astype(np.float32) / 10
    truth = GroundTruth(references, tuple("abcdefghij"), 0, BootstrapResamples(20_000, 20))
    found = compute_metrics(truth, Predictions(logits, None)).values
    expected = {"accuracy": 0.1, "macro_f1": 0.1, "balanced_accuracy": 0.1, "top_3_accuracy": 0.3,
                "top_5_accuracy": 0.5, "in_scope_accuracy": 0.1, "out_of_scope_recall": 0.1,
                "log_loss": np.log(10), "brier": 0.9}  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.02)
