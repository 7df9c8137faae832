"""Figures equal scikit-learn's, and say what they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from scipy.special import softmax
from sklearn import metrics as sk

from kdcli.evaluation.metrics import classification
from kdcli.evaluation.metrics.classification import (
    classification_metrics,
    probability_metrics,
    refusal_metrics,
)


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_scikit_learn_s(seed):
    random = np.random.default_rng(seed)
    truth, said = random.integers(0, 7, (2, 200))
    probabilities = softmax(random.normal(size=(200, 7)), axis=-1)
    found = classification_metrics(said, truth)
    found |= probability_metrics(probabilities, truth)
    assert found == {
        "accuracy": pytest.approx(sk.accuracy_score(truth, said)),
        "balanced_accuracy": pytest.approx(sk.balanced_accuracy_score(truth, said)),
        "macro_f1": pytest.approx(sk.f1_score(truth, said, average="macro")),
        "micro_f1": pytest.approx(sk.f1_score(truth, said, average="micro")),
        "weighted_f1": pytest.approx(sk.f1_score(truth, said, average="weighted")),
        "log_loss": pytest.approx(sk.log_loss(truth, probabilities)),
        "brier": pytest.approx(((probabilities - np.eye(7)[truth]) ** 2).sum(-1).mean()),
        "top_3_accuracy": pytest.approx(sk.top_k_accuracy_score(truth, probabilities, k=3)),
        "top_5_accuracy": pytest.approx(sk.top_k_accuracy_score(truth, probabilities, k=5)),
    }


CORNERS = {
    "one class, right": ([2] * 5, [2] * 5),
    "one class, wrong": ([2] * 5, [1] * 5),
    "one text": ([3], [3]),
    "none right": ([0, 1, 2, 3], [1, 2, 3, 0]),
    "a class that no text has": ([0, 1, 1], [0, 4, 1]),
    "a class that is never given": ([0, 1, 2, 2], [0, 0, 0, 2]),
    "one answer for all": ([0, 1, 2, 3, 4], [4, 4, 4, 4, 4]),
}


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("corner", CORNERS)
def test_in_corners_too(corner):
    truth, said = map(np.array, CORNERS[corner])
    probabilities = np.full((len(said), 5), 0.05) + 0.75 * np.eye(5)[said]
    given = (truth, said)
    expected = {
        "accuracy": sk.accuracy_score(*given),
        "balanced_accuracy": sk.balanced_accuracy_score(*given),
        **{f"{name}_f1": sk.f1_score(*given, average=name, zero_division=0)
           for name in ("macro", "micro", "weighted")},
        "log_loss": sk.log_loss(truth, probabilities, labels=range(5)),
        "brier": ((probabilities - np.eye(5)[truth]) ** 2).sum(-1).mean(),
        "top_3_accuracy": sk.top_k_accuracy_score(truth, probabilities, k=3, labels=range(5)),
    }  # fmt: skip
    found = classification_metrics(said, truth)
    found |= probability_metrics(probabilities, truth)
    assert found == pytest.approx(expected)
    report = sk.classification_report(*given, output_dict=True, zero_division=0)
    for row in classification.per_class_metrics(said, truth, tuple("01234")):
        theirs = report[row["label"]]
        assert (row["precision"], row["recall"], row["f1"], row["support"]) == (
            theirs["precision"], theirs["recall"], theirs["f1-score"], theirs["support"],
        )  # fmt: skip
    cells = {(i, j): n for i, j, n in classification.sparse_confusion_matrix(said, truth)}
    matrix = sk.confusion_matrix(*given, labels=range(5))
    assert cells == {(i, j): n for (i, j), n in np.ndenumerate(matrix) if n}


def test_a_perfect_model_and_one_that_knows_nothing():
    truth = np.repeat(np.arange(10), 20)
    perfect = classification_metrics(truth, truth)
    assert set(perfect.values()) == {1.0}
    sure = probability_metrics(np.eye(10)[truth], truth)
    assert (sure["log_loss"], sure["brier"]) == (pytest.approx(0, abs=1e-12), 0)
    even = np.full((200, 10), 0.1)
    ignorant = probability_metrics(even, truth)
    assert ignorant["log_loss"] == pytest.approx(np.log(10))
    assert ignorant["brier"] == pytest.approx(0.9)


@given(st.permutations(range(6)), st.integers(0, 2**32 - 1))
@examples(20)
def test_the_numbering_of_classes_is_of_no_consequence(order, seed):
    truth, said = np.random.default_rng(seed).integers(0, 6, (2, 60))
    renamed = np.array(order)
    one, two = (
        classification_metrics(said, truth),
        classification_metrics(renamed[said], renamed[truth]),
    )
    assert two == pytest.approx(one)


def test_two_labels_have_no_top_three():
    truth = np.array([0, 1])
    found = probability_metrics(np.array([[0.8, 0.2], [0.3, 0.7]]), truth)
    assert set(found) == {"log_loss", "brier"}


def test_accuracy_is_the_mix_of_the_two_scopes():
    truth, said = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 1])
    found = refusal_metrics(said, truth, 0)
    mixed = 0.4 * found["out_of_scope_recall"] + 0.6 * found["in_scope_accuracy"]
    assert sk.accuracy_score(truth, said) == pytest.approx(mixed)


def test_out_of_scope_by_hand():
    # Of four texts in scope three are right and one is refused; of two out of scope one is.
    truth, said = np.array([1, 1, 2, 3, 0, 0]), np.array([1, 0, 2, 3, 0, 2])
    assert refusal_metrics(said, truth, 0) == {
        "in_scope_accuracy": 0.75, "in_scope_refused": 0.25, "out_of_scope_recall": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("truth", "missing"),
    [([0, 0], {"in_scope_accuracy", "in_scope_refused"}), ([1, 2], {"out_of_scope_recall"})],
)
def test_what_a_split_has_nothing_of_has_no_figure(truth, missing):
    found = refusal_metrics(np.array([0, 1]), np.array(truth), 0)
    assert {"in_scope_accuracy", "in_scope_refused", "out_of_scope_recall"} - set(found) == missing


def test_each_class_by_scikit_learn():
    random = np.random.default_rng(1)
    truth, said = random.integers(0, 4, 100), random.integers(1, 5, 100)
    found = classification.per_class_metrics(said, truth, tuple("abcde"))
    assert [row["label"] for row in found] == list("abcde")
    report = sk.classification_report(truth, said, output_dict=True, zero_division=0)
    for i, row in enumerate(found):
        theirs = report[str(i)]
        assert (row["precision"], row["recall"], row["f1"], row["support"]) == (
            theirs["precision"], theirs["recall"], theirs["f1-score"], theirs["support"],
        )  # fmt: skip


def test_the_cells_of_the_confusion_matrix():
    random = np.random.default_rng(2)
    truth, said = random.integers(0, 6, (2, 50))
    matrix = np.zeros((6, 6), int)
    for reference, prediction, texts in classification.sparse_confusion_matrix(said, truth):
        assert texts > 0
        matrix[reference, prediction] = texts
    assert (matrix == sk.confusion_matrix(truth, said, labels=range(6))).all()


def test_figures_are_plain_numbers_that_json_takes():
    said = np.array([0, 1, 1])
    found = classification_metrics(said, said) | refusal_metrics(said, said, 0)
    assert {type(value) for value in found.values()} == {float}
