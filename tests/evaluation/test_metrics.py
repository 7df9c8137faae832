"""Figures equal scikit-learn's, and say what they are."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from kdcli.errors import UsageError
from kdcli.evaluation import gates, metrics
from kdcli.evaluation.latency import measure


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_scikit_learn_s(seed):
    random = np.random.default_rng(seed)
    truth, said, teacher = random.integers(0, 5, (3, 200))
    found = metrics.figures(said, truth, teacher, out_of_scope=0)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
    assert found["agreement"] == pytest.approx((said == teacher).mean())
    assert found["in_scope_accuracy"] == pytest.approx((said == truth)[truth != 0].mean())
    assert found["out_of_scope_recall"] == pytest.approx((said == 0)[truth == 0].mean())


def test_accuracy_is_the_mix_of_the_two_scopes():
    truth, said = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 1])
    found = metrics.figures(said, truth, out_of_scope=0)
    mixed = 0.4 * found["out_of_scope_recall"] + 0.6 * found["in_scope_accuracy"]
    assert found["accuracy"] == pytest.approx(mixed)


@pytest.mark.parametrize(
    ("truth", "said", "accuracy", "f1"),
    [([1, 1, 1], [1, 1, 1], 1.0, 1.0), ([0, 1], [1, 0], 0.0, 0.0), ([2], [2], 1.0, 1.0)],
)
def test_corner_cases(truth, said, accuracy, f1):
    found = metrics.figures(np.array(said), np.array(truth), out_of_scope=9)
    assert (found["accuracy"], found["macro_f1"]) == (accuracy, f1)
    assert "out_of_scope_recall" not in found


def test_models_take_turns_on_the_clock():
    order = []
    classify = {n: lambda text, n=n: order.append((n, text)) for n in ("big", "small")}
    found = measure(classify, ["a", "b"])
    assert order[-4:] == [("big", "a"), ("small", "a"), ("big", "b"), ("small", "b")]
    assert 0 <= found["big"].p50 <= found["big"].p95


EVALUATION = {
    "examples": {"validation": 10, "test": 10},
    "models": [
        {"name": "teacher", "splits": {s: {"accuracy": 0.2} for s in ("validation", "test")}},
        {"name": "student", "splits": {"validation": {"accuracy": 0.9}, "test": {"accuracy": 0.8}}},
    ],
}


@pytest.mark.parametrize(
    ("threshold", "count"),
    [("accuracy=0.95", 2), ("accuracy=0.85", 1), ("validation.accuracy=0.9", 0),
     ("test.accuracy=0.81", 1), ("accuracy=nan", 2)],
)  # fmt: skip
def test_a_gate_holds_the_student_on_each_split(threshold, count):
    missed = gates.missed([gates.parse(threshold)], EVALUATION)
    assert len(missed) == count
    assert all(phrase.startswith("student: ") for phrase in missed)


@pytest.mark.parametrize("threshold", ["accuracy", "accuracy=high", "f2=0.5", "dev.accuracy=0.5"])
def test_a_gate_on_nothing_is_refused(threshold):
    with pytest.raises(UsageError, match="--fail-under"):
        gates.missed([gates.parse(threshold)], EVALUATION)
