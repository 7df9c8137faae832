"""Figures equal scikit-learn's, and say what they are."""

import time

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


def test_out_of_scope_by_hand():
    # Of four texts in scope three are right; of two out of scope one is refused.
    truth, said = np.array([1, 1, 2, 3, 0, 0]), np.array([1, 0, 2, 3, 0, 2])
    found = metrics.figures(said, truth, out_of_scope=0)
    assert (found["in_scope_accuracy"], found["out_of_scope_recall"]) == (0.75, 0.5)


def test_a_split_with_nothing_in_scope_has_no_in_scope_accuracy():
    found = metrics.figures(np.array([0, 1]), np.array([0, 0]), out_of_scope=0)
    assert found["out_of_scope_recall"] == 0.5
    assert "in_scope_accuracy" not in found


def test_a_label_that_the_data_doesn_t_know_is_wrong():
    found = metrics.figures(np.array([-1, 1]), np.array([0, 1]))
    assert found["accuracy"] == 0.5


def test_figures_are_plain_numbers_that_json_takes():
    said = np.array([0, 1, 1])
    found = metrics.figures(said, said, said, out_of_scope=0)
    assert {type(value) for value in found.values()} == {float}


def test_the_slower_model_is_the_slower_one():
    found = measure({"slow": lambda text: time.sleep(0.004), "fast": len}, ["a text"] * 5)
    assert found["slow"].p50 >= 4 > found["fast"].p50


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


def test_a_teacher_on_its_own_is_held_to_the_gates():
    alone = {**EVALUATION, "models": EVALUATION["models"][:1]}
    assert gates.missed([gates.parse("test.accuracy=0.5")], alone) == [
        "teacher: test accuracy is 0.2000, under 0.5"
    ]
