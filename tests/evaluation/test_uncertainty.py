"""Intervals cover what they say, pairs are narrower than strangers, and tests are exact."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn import metrics as sk

from kdcli.evaluation import metrics
from kdcli.evaluation.calibration import expected_error, reliability
from kdcli.evaluation.uncertainty import Resamples, interval, mcnemar

RANDOM = np.random.default_rng(7)


class Whole(Resamples):
    """One draw: every text once, so that a resampled figure is the figure."""

    def __init__(self, texts):
        self._times = np.ones((1, texts), dtype=np.uint8)


def test_drawing_every_text_once_gives_the_figures_themselves():
    texts, classes = 400, 9
    truth, said = RANDOM.integers(0, classes, (2, texts))
    said[:250] = truth[:250]
    confidence, outside = RANDOM.random(texts), truth == 0
    score = np.round(RANDOM.normal(size=texts) + outside, 1)  # ties
    whole = Whole(texts)
    of_classes = whole.of_classes(said, truth, classes + 3)  # three that don't occur
    figures = metrics.compute(metrics.Classification, said, truth)
    for name, draw in of_classes.items():
        assert draw == pytest.approx(figures[name])
    assert whole.auroc(score, outside) == pytest.approx(sk.roc_auc_score(outside, score))
    for among in (np.ones(texts, bool), ~outside):
        error = expected_error(reliability(confidence[among], (said == truth)[among]))
        draw = whole.calibration_error(confidence, said == truth, among)
        assert draw == pytest.approx(error, rel=1e-5)
    rates = whole.rates({"all": (confidence, None), "some": (confidence, outside)})
    assert rates["all"] == pytest.approx(confidence.mean())
    assert rates["some"] == pytest.approx(confidence[outside].mean())


def test_every_draw_has_as_many_texts():
    times = Resamples(50, 20)._times
    assert (times.sum(1) == 50).all()
    assert len({row.tobytes() for row in times}) == 20


def covered(true, draw, count=150):
    """How often the interval holds the true value."""
    hits = 0
    for _ in range(count):
        name, value, draws = draw()
        low, high = interval(name, value, draws)
        hits += low <= true <= high
    return hits / count


def test_the_interval_of_a_share_covers_it_nineteen_times_in_twenty():
    def draw():
        right = RANDOM.random(400) < 0.9
        return "accuracy", right.mean(), Resamples(400).rates({"a": (right, None)})["a"]

    assert 0.89 <= covered(0.9, draw) <= 0.99


def test_the_interval_of_macro_f1_covers_it():
    def classify(texts):
        truth = RANDOM.integers(0, 4, texts)
        wrong = RANDOM.random(texts) < 0.2
        return truth, np.where(wrong, RANDOM.integers(0, 4, texts), truth)

    def draw():
        truth, said = classify(400)
        f1 = sk.f1_score(truth, said, average="macro")
        return "macro_f1", f1, Resamples(400).of_classes(said, truth, 4)["macro_f1"]

    assert 0.89 <= covered(0.85, draw) <= 0.99


def test_the_interval_of_the_calibration_error_covers_it():
    def draw():
        sure, texts = np.full(400, 0.9), 400
        right = RANDOM.random(texts) < 0.8
        error = expected_error(reliability(sure, right))
        draws = Resamples(texts).calibration_error(sure, right, np.ones(texts, bool))
        return "ece", error, draws

    assert 0.89 <= covered(0.1, draw) <= 0.99


def test_a_difference_in_pairs_is_narrower_than_each_figure():
    hard = RANDOM.random(500) < 0.3
    one, two = ~hard, ~hard
    two[:5] = ~two[:5]
    draws = Resamples(500).rates({"one": (one, None), "two": (two, None)})
    apart = np.ptp(interval("one", one.mean(), draws["one"]))
    paired = np.ptp(interval("d", 0, draws["one"] - draws["two"]))
    assert paired < apart / 3


def test_the_same_model_twice_differs_by_nothing():
    right = RANDOM.random(100) < 0.5
    draws = Resamples(100).rates({"one": (right, None), "two": (right.copy(), None)})
    assert interval("accuracy", 0.0, draws["one"] - draws["two"]) == (0.0, 0.0)


def test_a_figure_that_no_draw_has_has_no_interval():
    nobody = np.zeros(10, dtype=bool)
    draws = Resamples(10).rates({"a": (nobody, nobody)})["a"]
    assert interval("a", 0.0, draws) is None


@pytest.mark.parametrize(("broken", "repaired"), [(0, 0), (3, 3), (12, 2), (0, 9), (40, 25)])
def test_mcnemar_is_the_binomial_test(broken, repaired):
    mine = np.array([True] * 20 + [False] * broken + [True] * repaired + [False] * 5)
    other = np.array([True] * 20 + [True] * broken + [False] * repaired + [False] * 5)
    found = mcnemar(mine, other)
    assert (found["broken"], found["repaired"]) == (broken, repaired)
    both = broken + repaired
    expected = min(1.0, 2 * binom.cdf(min(broken, repaired), both, 0.5)) if both else 1.0
    assert found["p"] == pytest.approx(expected)
    assert mcnemar(other, mine)["p"] == found["p"]
