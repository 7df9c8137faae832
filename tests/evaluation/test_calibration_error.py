"""Calibration: the curve, its error, and the temperature that mends it."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from kdcli.evaluation.calibration.calibration_error import (
    NUM_BINS,
    confidence_bin_ids,
    expected_calibration_error,
    reliability_curve,
)
from kdcli.evaluation.calibration.temperature import fit_temperature

RANDOM = np.random.default_rng(0)


def test_the_curve_is_scikit_learn_s():
    confidence = np.append(RANDOM.random(500), [0.2, 1 / 3, 0.6, 1.0])
    correct = RANDOM.random(504) < confidence
    found = reliability_curve(confidence, correct)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=NUM_BINS)
    assert [p["accuracy"] for p in found] == list(accuracy)
    assert [p["confidence"] for p in found] == list(mean)
    assert sum(p["texts"] for p in found) == 504
    # The bins that texts are counted in are those that their means are of.
    for point, i in zip(found, sorted(set(confidence_bin_ids(confidence))), strict=True):
        inside = confidence_bin_ids(confidence) == i
        assert point["texts"] == inside.sum()
        assert point["confidence"] == pytest.approx(confidence[inside].mean())


@pytest.mark.parametrize(
    ("confidence", "right", "error"), [(1.0, 1.0, 0.0), (0.9, 0.5, 0.4), (0.5, 1.0, 0.5)]
)
def test_the_error_is_the_gap(confidence, right, error):
    correct = np.arange(100) < 100 * right
    curve = reliability_curve(np.full(100, confidence), correct)
    assert expected_calibration_error(curve) == pytest.approx(error)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(true):
    logits = RANDOM.normal(size=(20_000, 8)) * 3
    probabilities = softmax(logits / true, axis=-1)
    labels = (probabilities.cumsum(-1) > RANDOM.random((20_000, 1))).argmax(-1)
    found = fit_temperature(logits.astype(np.float32), labels)
    assert found == pytest.approx(true, rel=0.05)
    for other in (0.8 * found, 1.25 * found):
        assert log_loss(labels, softmax(logits / found, axis=-1)) < log_loss(
            labels, softmax(logits / other, axis=-1)
        )


def test_a_temperature_divides_out_a_scale():
    logits = RANDOM.normal(size=(500, 5))
    labels = RANDOM.integers(0, 5, 500)
    labels[:300] = logits[:300].argmax(-1)
    one, tenfold = fit_temperature(logits, labels), fit_temperature(4 * logits, labels)
    assert tenfold == pytest.approx(4 * one, rel=1e-3)


def test_a_model_that_is_always_right_gets_a_temperature_all_the_same():
    logits = 5 * np.eye(4)[RANDOM.integers(0, 4, 50)]
    assert 0 < fit_temperature(logits, logits.argmax(-1)) < 1
