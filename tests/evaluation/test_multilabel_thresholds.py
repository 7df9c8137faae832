"""Thresholds of labels: the best F1 of all that there are."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from kdcli.evaluation.calibration.multilabel_thresholds import (
    apply_thresholds,
    best_f1_threshold,
    choose_multilabel_thresholds,
)


def highest_f1(probabilities, there):
    """The best F1 over every threshold that gives other decisions."""
    candidates = [*np.unique(probabilities), 0.0]
    return max(f1_score(there, probabilities >= t) for t in candidates)


@pytest.mark.parametrize("seed", range(20))
def test_best_threshold_has_the_highest_f1_of_all_thresholds(seed):
    random = np.random.default_rng(seed)
    probabilities = random.choice([0.0, 0.1, 0.3, 0.5, 0.9, 1.0], size=12)
    there = random.random(12) < 0.7
    there[0] = True
    threshold = best_f1_threshold(probabilities, there)
    assert 0 <= threshold <= 1
    found = f1_score(there, probabilities >= threshold)
    assert found == pytest.approx(highest_f1(probabilities, there))


def test_threshold_is_0_where_every_label_is_there():
    probabilities, there = np.array([0.0, 0.0, 0.4, 0.9]), np.ones(4, dtype=bool)
    assert best_f1_threshold(probabilities, there) == 0
    assert apply_thresholds(probabilities[:, None], {"a": 0.0}, ["a"]).all()


def test_threshold_parts_neighbouring_numbers():
    above = np.nextafter(0.3, 1)
    for low, high in ((0.3, above), (above, np.nextafter(above, 1))):
        assert best_f1_threshold(np.array([low, high]), np.array([False, True])) > low


def test_label_that_no_text_has_takes_the_threshold_for_all():
    probabilities = np.array([[0.9, 0.2], [0.8, 0.1], [0.3, 0.6]])
    there = np.array([[1, 0], [1, 0], [0, 0]], dtype=bool)
    chosen = choose_multilabel_thresholds(probabilities, there, ("a", "b"), per_label=True)
    assert chosen["a"] == pytest.approx(0.55)
    assert chosen["b"] == pytest.approx(0.7)
