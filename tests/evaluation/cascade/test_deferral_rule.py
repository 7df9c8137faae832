"""A cascade's promise holds as often as it says, and is withheld where texts are too few."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from kdcli.evaluation.cascade.deferral_rule import (
    CascadeDecisions,
    cascade_curve,
    choose_rule,
    describe_rule,
    measure_cascade,
    texts_needed,
)


def draw(rng, count, *, outside=0.0):
    """Texts whose student is right with the probability that it states, and a teacher of 95 %.

    Returns the decisions; the teacher is right independently of the student.
    """
    confidence = rng.beta(6, 1.2, count)
    references = np.zeros(count, dtype=int)
    is_outside = rng.random(count) < outside
    references[is_outside] = 1
    student = np.where(rng.random(count) < confidence, references, 2)
    teacher = np.where(rng.random(count) < 0.95, references, 3)
    return CascadeDecisions(student, confidence, teacher, references, 1 if outside else None)


@pytest.mark.parametrize(("max_drop", "confidence"), [(0.02, 0.95), (0.05, 0.8)])
def test_the_promise_is_broken_as_seldom_as_it_says(max_drop, confidence):
    rng = np.random.default_rng(0)
    world = draw(rng, 400_000)
    order = np.sort(world.confidence)
    harmed = world.harmed("accuracy")
    by_confidence = np.argsort(world.confidence)
    kept_harm = harmed[by_confidence][::-1].cumsum()[::-1] / len(order)
    broken, deferred = 0, []
    for _ in range(400):
        rule = choose_rule(draw(rng, 1_500), "accuracy", max_drop, confidence)
        first_kept = np.searchsorted(order, rule.threshold)
        broken += first_kept < len(order) and kept_harm[first_kept] > max_drop
        deferred.append(rule.deferred)
    # At most 5 or 20 % of the draws, up to the noise of 400 of them.
    assert broken <= binom.ppf(0.999, 400, 1 - confidence)
    assert broken > 0, "the test is not vacuous: the rule goes to the limit"
    assert np.mean(deferred) < 0.9


def test_the_fewest_texts_that_hold_the_promise_are_deferred():
    rng = np.random.default_rng(1)
    decisions = draw(rng, 3_000)
    rules = [choose_rule(decisions, "accuracy", drop, 0.95) for drop in (0.01, 0.03, 0.1)]
    shares = [rule.deferred for rule in rules]
    assert shares == sorted(shares, reverse=True)
    for rule in rules:
        harmed = decisions.harmed("accuracy")
        kept = int((harmed & (decisions.confidence >= rule.threshold)).sum())
        lower = 1 / (1 + math.exp(-(math.log(rule.threshold / (1 - rule.threshold)) - 0.05)))
        more = int((harmed & (decisions.confidence >= lower)).sum())
        assert binom.cdf(kept, 3_000, rule.max_drop) <= 0.05 < binom.cdf(more, 3_000, rule.max_drop)


def test_a_group_with_too_few_texts_gets_no_promise():
    rng = np.random.default_rng(2)
    decisions = draw(rng, 3_000, outside=0.03)
    rule = choose_rule(decisions, "accuracy", 0.01, 0.95)
    needed = texts_needed(0.01, 0.025)
    assert 0.99**needed <= 0.025 < 0.99 ** (needed - 1)
    assert rule.promised_for == ("in_scope",)
    assert rule.untestable["out_of_scope"]["needed"] == needed
    assert any(f"{needed:,}" in sentence for sentence in describe_rule(rule))
    many = choose_rule(draw(rng, 3_000, outside=0.4), "accuracy", 0.05, 0.95)
    assert many.promised_for == ("in_scope", "out_of_scope")


def test_without_enough_texts_everything_is_deferred():
    decisions = draw(np.random.default_rng(3), 50)
    rule = choose_rule(decisions, "accuracy", 0.01, 0.95)
    assert (rule.deferred, rule.promised_for) == (1.0, ())
    assert (decisions.confidence < rule.threshold).all()


def test_the_measurements_are_those_of_counting_by_hand():
    decisions = CascadeDecisions(
        student=np.array([0, 2, 2, 1, 0]),
        confidence=np.array([0.9, 0.3, 0.8, 0.7, 0.2]),
        teacher=np.array([0, 0, 0, 2, 0]),
        references=np.array([0, 0, 0, 1, 0]),
        out_of_scope_id=1,
    )
    measured = measure_cascade(decisions, 0.5, student_ms=2.0, teacher_ms=10.0)
    # Texts 1 and 4 are deferred; the answers are 0, 0, 2, 1, 0.
    assert measured["deferred"] == pytest.approx(0.4)
    assert measured["accuracy"] == pytest.approx(0.8)
    assert measured["agreement"] == pytest.approx(0.6)
    assert measured["ms"] == pytest.approx(6.0)
    assert measured["groups"]["in_scope"]["drop"] == pytest.approx(0.25)
    assert measured["groups"]["out_of_scope"]["drop"] == pytest.approx(-1)
    curve = cascade_curve(decisions, 2.0, 10.0)
    assert (curve[0]["deferred"], curve[0]["accuracy"]) == (0.0, pytest.approx(0.6))
    assert (curve[-1]["deferred"], curve[-1]["agreement"]) == (1.0, 1.0)
