"""Telling texts in scope from the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from kdcli.evaluation.metrics.out_of_scope import (
    SCORE_NAMES,
    MahalanobisInScopeScorer,
    in_scope_score,
    out_of_scope_detection_metrics,
)

RANDOM = np.random.default_rng(3)


def logits_of(inside, outside, label=2, classes=5):
    """Logits of a model that is sure of in-scope texts, and unsure of the others."""
    found = RANDOM.normal(size=(inside + outside, classes))
    found[np.arange(inside), RANDOM.choice([0, 1, 3, 4], inside)] += 8
    found[inside:, label] += 3
    return found.astype(np.float32), np.arange(inside + outside) >= inside


@pytest.mark.parametrize("name", SCORE_NAMES)
def test_every_score_is_higher_in_scope(name):
    logits, outside = logits_of(300, 80)
    found = in_scope_score(name, logits, 2)
    assert found.shape == (380,)
    assert out_of_scope_detection_metrics(found, outside)["auroc"] > 0.95


@pytest.mark.parametrize("name", ["probability", "margin", "entropy"])
@given(shift=st.floats(-50, 50), seed=st.integers(0, 99))
@examples(10)
def test_adding_a_constant_to_the_logits_changes_nothing(name, shift, seed):
    logits = np.random.default_rng(seed).normal(size=(20, 4))
    assert in_scope_score(name, logits + shift, 1) == pytest.approx(
        in_scope_score(name, logits, 1), abs=1e-9
    )


def test_scores_by_hand():
    logits = np.log(np.array([[0.7, 0.2, 0.1]]))
    assert in_scope_score("probability", logits, 1) == pytest.approx([0.7])
    assert in_scope_score("margin", logits, 1) == pytest.approx([np.log(0.7 / 0.2)])
    assert in_scope_score("energy", logits, 1) == pytest.approx([np.log(0.8)])
    p = np.array([7 / 8, 1 / 8])
    assert in_scope_score("entropy", logits, 1) == pytest.approx([(p * np.log(p)).sum()])


def test_a_perfect_score_and_one_that_knows_nothing():
    outside = np.arange(1000) >= 700
    assert out_of_scope_detection_metrics(-outside.astype(float), outside) == {
        "auroc": 1.0, "aupr": 1.0, "fpr_at_95_tpr": 0.0,
    }  # fmt: skip
    blind = out_of_scope_detection_metrics(np.zeros(1000), outside)
    assert blind == {"auroc": 0.5, "aupr": 0.3, "fpr_at_95_tpr": 1.0}


def test_what_is_refused_to_catch_nineteen_in_twenty():
    # Of 100 out of scope, 95 score below every text in scope; the others above half of them.
    scores = np.concatenate([np.linspace(1, 2, 200), np.full(95, 0.0), np.full(5, 1.5)])
    outside = np.arange(300) >= 200
    assert out_of_scope_detection_metrics(scores, outside)["fpr_at_95_tpr"] == 0.0
    scores[200] = 1.5
    assert out_of_scope_detection_metrics(scores, outside)["fpr_at_95_tpr"] == pytest.approx(
        0.5, abs=0.01
    )


def test_mahalanobis_sees_what_lies_between_the_classes():
    means = 6 * np.eye(4)
    labels = RANDOM.integers(0, 4, 400)
    near = MahalanobisInScopeScorer(means[labels] + RANDOM.normal(size=(400, 4)), labels)
    inside = near(means[RANDOM.integers(0, 4, 200)] + RANDOM.normal(size=(200, 4)))
    outside = near(means.mean(0) + RANDOM.normal(size=(200, 4)))
    found = out_of_scope_detection_metrics(np.concatenate([inside, outside]), np.arange(400) >= 200)
    assert found["auroc"] > 0.95
    # The squared distance of a text of the class has the mean of a chi-squared variable.
    assert -inside.mean() == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("texts", [1, 2])
def test_mahalanobis_of_texts_that_don_t_differ_says_nothing(texts):
    near = MahalanobisInScopeScorer(np.ones((texts, 4)), np.zeros(texts, dtype=int))
    assert near(RANDOM.normal(size=(3, 4))).tolist() == [0, 0, 0]


def test_mahalanobis_works_with_fewer_texts_than_dimensions():
    labels = np.repeat([0, 1], 5)
    states = RANDOM.normal(size=(10, 64)) + 10 * labels[:, None]
    near = MahalanobisInScopeScorer(states, labels)
    assert np.isfinite(near(states)).all()
    assert near(states).mean() > near(states + 50).mean()
