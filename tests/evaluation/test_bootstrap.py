"""Intervals cover what they say, pairs are narrower than strangers, and tests are exact."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binom, norm
from sklearn import metrics as sk

from kdcli.evaluation.calibration.calibration_error import (
    expected_calibration_error,
    reliability_curve,
)
from kdcli.evaluation.metrics import classification
from kdcli.evaluation.metrics.single_label import compute_metrics
from kdcli.evaluation.predict.predictions import GroundTruth, Predictions
from kdcli.evaluation.uncertainty.bootstrap import BootstrapResamples, confidence_interval
from kdcli.evaluation.uncertainty.mcnemar import mcnemar_test

RANDOM = np.random.default_rng(7)


class Whole(BootstrapResamples):
    """One draw: every text once, so that a resampled figure is the figure."""

    def __init__(self, texts):
        self._draw_counts = np.ones((1, texts), dtype=np.uint8)


def test_drawing_every_text_once_gives_the_figures_themselves():
    texts, classes = 400, 9
    truth, said = RANDOM.integers(0, classes, (2, texts))
    said[:250] = truth[:250]
    confidence, outside = RANDOM.random(texts), truth == 0
    score = np.round(RANDOM.normal(size=texts) + outside, 1)  # ties
    whole = Whole(texts)
    of_classes = whole.single_label_metrics(said, truth, classes + 3)  # three that don't occur
    figures = classification.classification_metrics(said, truth)
    for name, draw in of_classes.items():
        assert draw == pytest.approx(figures[name])
    assert whole.auroc(score, outside) == pytest.approx(sk.roc_auc_score(outside, score))
    for among in (np.ones(texts, bool), ~outside):
        error = expected_calibration_error(
            reliability_curve(confidence[among], (said == truth)[among])
        )
        draw = whole.calibration_error(confidence, said == truth, among)
        assert draw == pytest.approx(error, rel=1e-5)
    rates = whole.masked_means({"all": (confidence, None), "some": (confidence, outside)})
    assert rates["all"] == pytest.approx(confidence.mean())
    assert rates["some"] == pytest.approx(confidence[outside].mean())


def test_resampled_figures_break_ties_as_the_figures_do():
    texts, classes = 400, 7
    truth = RANDOM.integers(0, classes, texts)
    logits = RANDOM.integers(0, 2, (texts, classes)) * 900.0  # ties, and probabilities of 0
    whole = GroundTruth(truth, tuple("abcdefg"), None, Whole(texts))
    found = compute_metrics(whole, Predictions(logits, None))
    probabilities = softmax(logits, axis=-1)
    for k in (3, 5):
        point = sk.top_k_accuracy_score(truth, probabilities, k=k, labels=range(classes))
        assert found.values[f"top_{k}_accuracy"] == point
    assert len({found.values[f"top_{k}_accuracy"] for k in (3, 5)}) == 2
    for name, draws in found.resampled_values.items():
        assert draws[0] == pytest.approx(found.values[name], rel=1e-5), name


def test_every_draw_has_as_many_texts():
    times = BootstrapResamples(50, 20)._draw_counts
    assert (times.sum(1) == 50).all()
    assert len({row.tobytes() for row in times}) == 20


TEXTS = 400
DRAWS = BootstrapResamples(TEXTS)  # they are the same for every split of so many texts


def share(random):
    right = random.random(TEXTS) < 0.9
    return right.mean(), DRAWS.masked_means({"a": (right, None)})["a"]


def recall_of_some(random):
    outside, refused = random.random((2, TEXTS)) < [[0.25], [0.6]]
    return refused[outside].mean(), DRAWS.masked_means({"a": (refused, outside)})["a"]


def difference(random):
    one = random.random(TEXTS) < 0.9
    other = one ^ (random.random(TEXTS) < 0.05)
    draws = DRAWS.masked_means({"one": (one, None), "other": (other, None)})
    return one.mean() - other.mean(), draws["one"] - draws["other"]


def macro_f1(random):
    truth, guess = random.integers(0, 4, (2, TEXTS))
    said = np.where(random.random(TEXTS) < 0.2, guess, truth)
    return sk.f1_score(truth, said, average="macro"), DRAWS.single_label_metrics(said, truth, 4)[
        "macro_f1"
    ]


def auroc(random):
    outside = random.random(TEXTS) < 0.3
    score = random.normal(size=TEXTS) + outside
    return sk.roc_auc_score(outside, score), DRAWS.auroc(score, outside)


def ece(random):
    sure, right = np.full(TEXTS, 0.9), random.random(TEXTS) < 0.8
    draws = DRAWS.calibration_error(sure, right, np.ones(TEXTS, bool))
    return expected_calibration_error(reliability_curve(sure, right)), draws


def wavering(random, gap):
    """ECE of a model that is as unsure as it may be, and right less often by `gap`."""
    sure = np.maximum(gap, random.uniform(0.35, 1, TEXTS) ** 0.5)
    right = random.random(TEXTS) < sure - gap
    draws = DRAWS.calibration_error(sure, right, np.ones(TEXTS, bool))
    return expected_calibration_error(reliability_curve(sure, right)), draws


@pytest.mark.parametrize("gap", [0.0, 0.03, 0.1])
def test_the_interval_of_an_error_of_many_bins_holds_it_and_the_figure(gap):
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        value, draws = wavering(random, gap)
        low, high = confidence_interval("ece", value, draws)
        assert 0 <= low <= value <= high
        hits += low <= gap <= high
    assert hits / 200 >= 0.9


@pytest.mark.parametrize(
    ("figure", "true", "splits"),
    [(share, 0.9, 2000), (recall_of_some, 0.6, 2000), (difference, 0.04, 2000),
     (macro_f1, 0.85, 400), (auroc, norm.cdf(0.5**0.5), 200), (ece, 0.1, 800)],
)  # fmt: skip
def test_the_interval_covers_the_truth_nineteen_times_in_twenty(figure, true, splits):
    """Splits drawn from a world whose true value is known; 93 to 97 % of intervals hold it."""
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(splits):
        low, high = confidence_interval(figure.__name__, *figure(random))
        hits += low <= true <= high
    assert 0.93 <= hits / splits <= 0.97


def test_a_difference_in_pairs_is_narrower_than_each_figure():
    hard = RANDOM.random(500) < 0.3
    one, two = ~hard, ~hard
    two[:5] = ~two[:5]
    draws = BootstrapResamples(500).masked_means({"one": (one, None), "two": (two, None)})
    apart = np.ptp(confidence_interval("one", one.mean(), draws["one"]))
    paired = np.ptp(confidence_interval("d", 0, draws["one"] - draws["two"]))
    assert paired < apart / 3


def test_the_same_model_twice_differs_by_nothing():
    right = RANDOM.random(100) < 0.5
    draws = BootstrapResamples(100).masked_means(
        {"one": (right, None), "two": (right.copy(), None)}
    )
    assert confidence_interval("accuracy", 0.0, draws["one"] - draws["two"]) == (0.0, 0.0)


def test_a_figure_that_no_draw_has_has_no_interval():
    nobody = np.zeros(10, dtype=bool)
    draws = BootstrapResamples(10).masked_means({"a": (nobody, nobody)})["a"]
    assert confidence_interval("a", 0.0, draws) is None


@pytest.mark.parametrize(("broken", "repaired"), [(0, 0), (3, 3), (12, 2), (0, 9), (40, 25)])
def test_mcnemar_is_the_binomial_test(broken, repaired):
    mine = np.array([True] * 20 + [False] * broken + [True] * repaired + [False] * 5)
    other = np.array([True] * 20 + [True] * broken + [False] * repaired + [False] * 5)
    found = mcnemar_test(mine, other)
    assert (found["broken"], found["repaired"]) == (broken, repaired)
    both = broken + repaired
    expected = min(1.0, 2 * binom.cdf(min(broken, repaired), both, 0.5)) if both else 1.0
    assert found["p"] == pytest.approx(expected)
    assert mcnemar_test(other, mine)["p"] == found["p"]
