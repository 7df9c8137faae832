"""How much a student answers as its teacher does."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from kdcli.evaluation.metrics.fidelity import single_label_fidelity

RANDOM = np.random.default_rng(11)


def means(mine, other, references):
    found = single_label_fidelity(mine, other, references)
    return {
        name: (value if among is None else value[among]).mean()
        for name, (value, among) in found.items()
    }


def test_a_model_agrees_with_itself():
    p = softmax(RANDOM.normal(size=(50, 4)), axis=-1)
    found = means(p, p, RANDOM.integers(0, 4, 50))
    assert found == {
        "agreement": 1, "agreement_where_it_errs": 1, "kl": pytest.approx(0, abs=1e-12),
        "negative_flip_rate": 0, "positive_flip_rate": 0,
    }  # fmt: skip


def test_the_divergence_is_scipy_s_and_from_the_teacher():
    mine, teacher = softmax(RANDOM.normal(size=(2, 60, 5)), axis=-1)
    expected = np.mean([entropy(t, s) for t, s in zip(teacher, mine, strict=True)])
    assert means(mine, teacher, np.zeros(60, int))["kl"] == pytest.approx(expected)


def test_a_probability_that_underflowed_leaves_a_number():
    sure, other = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    kl, _ = single_label_fidelity(sure, other, np.array([0]))["kl"]
    assert np.isfinite(kl).all()


def test_flips_by_hand():
    # The teacher is right on the first three of five, the student on the first two and the last.
    references = np.array([0, 0, 0, 0, 0])
    teacher = np.eye(3)[[0, 0, 0, 1, 1]]
    student = np.eye(3)[[0, 0, 1, 1, 0]]
    found = means(student, teacher, references)
    assert found["agreement"] == pytest.approx(3 / 5)
    assert found["negative_flip_rate"] == pytest.approx(1 / 5)
    assert found["positive_flip_rate"] == pytest.approx(1 / 5)
    assert found["agreement_where_it_errs"] == pytest.approx(1 / 2)


def test_flips_are_the_difference_in_accuracy():
    mine, teacher = softmax(RANDOM.normal(size=(2, 200, 3)), axis=-1)
    references = RANDOM.integers(0, 3, 200)
    found = means(mine, teacher, references)
    gain = (mine.argmax(-1) == references).mean() - (teacher.argmax(-1) == references).mean()
    assert found["positive_flip_rate"] - found["negative_flip_rate"] == pytest.approx(gain)
