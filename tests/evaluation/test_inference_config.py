"""The threshold keeps its budget, and travels with the model."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcli.errors import ModelError
from kdcli.evaluation.calibration.inference_config import (
    INFERENCE_CONFIG_FILENAME,
    Calibration,
    InputTruncation,
    format_inference_config,
    load_calibration,
    load_input_truncation,
)
from kdcli.evaluation.calibration.out_of_scope_threshold import (
    OutOfScopeThreshold,
    choose_out_of_scope_thresholds,
    threshold_within_budget,
)
from kdcli.evaluation.metrics import out_of_scope

RANDOM = np.random.default_rng(5)


def validation(inside=400, outside=60):
    """Logits and labels; label 0 is out of scope."""
    references = np.where(
        np.arange(inside + outside) < inside, RANDOM.integers(1, 6, inside + outside), 0
    )
    logits = RANDOM.normal(size=(inside + outside, 6))
    logits[np.arange(inside + outside), references] += np.where(references, 4, 1)
    return logits.astype(np.float32), references


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.floats(0, 1, exclude_max=True),
)
def test_no_more_than_the_budget_is_below_the_threshold(scores, budget):
    scores = np.array(scores)
    found = threshold_within_budget(scores, np.ones(len(scores), dtype=bool), budget)
    assert sum(score < found for score in scores) / len(scores) <= budget
    # No higher one would do: above the lowest score that is kept, too many are refused.
    higher = scores[scores > scores[scores >= found].min()]
    if len(higher):
        assert sum(score < higher.min() for score in scores) / len(scores) > budget


def refused(count, budget):
    scores = np.arange(float(count))
    return (scores < threshold_within_budget(scores, np.ones(count, dtype=bool), budget)).sum()


@pytest.mark.parametrize("count", [1, 3, 7, 10, 49, 100, 1000, 4999])
def test_a_whole_number_of_texts_is_not_lost_to_rounding(count):
    for allowed in range(0, count, max(1, count // 100)):
        assert refused(count, allowed / count) == allowed
        if allowed:
            assert refused(count, math.nextafter(allowed / count, 0)) == allowed - 1


@pytest.mark.parametrize(("count", "budget", "allowed"), [(100, 0.29, 29), (1000, 0.001, 1)])
def test_a_share_counts_as_it_is_written(count, budget, allowed):
    assert refused(count, budget) == allowed


@pytest.mark.parametrize("count", [1, 2, 60])
def test_a_share_just_below_all_does_not_allow_all(count):
    assert refused(count, 0.9999999999999998) == count - 1


@pytest.mark.parametrize(
    ("scores", "inside", "budget", "expected"),
    [
        ([1, 2, 3, 4], [1, 1, 1, 1], 0.25, 1.5),
        ([4, 1, 3, 2], [1, 1, 1, 1], 0.25, 1.5),
        ([1, 3, 3, 3], [1, 1, 1, 1], 0.5, 2.0),  # ties are kept together
        ([1, 1.5, 2, 3, 4], [1, 0, 1, 1, 1], 0.25, 1.75),  # the next score is out of scope
        ([2, 3, 4], [1, 1, 1], 0.0, 1.5),  # nothing below: the margin is that above
        ([0.4, 0.4], [1, 1], 0.0, 0.2),
        ([0, 0], [1, 1], 0.0, -0.5),
        ([7, 8], [1, 1], 1 - 1e-16, 7.5),  # all but one, as rounding has it
        ([1, np.nextafter(1, 2)], [1, 1], 0.5, np.nextafter(1, 2)),
    ],
)
def test_threshold_lies_halfway_between_refused_and_kept_scores(scores, inside, budget, expected):
    assert (
        threshold_within_budget(np.array(scores, float), np.array(inside, bool), budget) == expected
    )


@pytest.mark.parametrize("budget", [0.0, 0.02, 0.1])
def test_no_decision_on_validation_depends_on_rounding_errors(budget):
    logits, references = validation()
    (point,) = choose_out_of_scope_thresholds(logits, references, 0, "oos", [budget])
    scores = out_of_scope.in_scope_score(point.score, logits, 0)
    decided = scores < point.threshold
    for noise in (-1e-6, 1e-6):
        assert ((scores + noise < point.threshold) == decided).all()


@pytest.mark.parametrize("budget", [0.0, 0.02, 0.1])
def test_in_scope_texts_are_refused_as_often_as_allowed(budget):
    logits, references = validation()
    (point,) = choose_out_of_scope_thresholds(logits, references, 0, "oos", [budget])
    refused = point.predict_with_refusal(logits, 0) == 0
    inside = references != 0
    assert refused[inside].mean() == pytest.approx(budget)
    assert point.refuse_at_most == budget
    # What isn't refused gets its best in-scope label, whatever the out-of-scope logit says.
    kept = ~refused
    assert (point.predict_with_refusal(logits, 0)[kept] == logits[kept, 1:].argmax(-1) + 1).all()


def test_the_score_that_separates_best_is_taken():
    logits, references = validation()
    (point,) = choose_out_of_scope_thresholds(logits, references, 0, "oos", [0.02])
    found = {
        name: out_of_scope.out_of_scope_detection_metrics(
            out_of_scope.in_scope_score(name, logits, 0), references == 0
        )["auroc"]
        for name in out_of_scope.SCORE_NAMES
    }
    assert found[point.score] == max(found.values())


def test_a_higher_budget_refuses_more():
    logits, references = validation()
    points = choose_out_of_scope_thresholds(logits, references, 0, "oos", [0.01, 0.05, 0.2])
    recalls = [(p.predict_with_refusal(logits, 0) == 0)[references == 0].mean() for p in points]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1]


def test_without_texts_out_of_scope_it_is_the_probability():
    logits, references = validation(outside=0)
    assert (
        choose_out_of_scope_thresholds(logits, references, 0, "oos", [0.02])[0].score
        == "probability"
    )


def test_without_texts_in_scope_there_is_no_threshold():
    logits, references = validation(inside=0)
    assert choose_out_of_scope_thresholds(logits, references, 0, "oos", [0.02]) == []


POINT = OutOfScopeThreshold("oos", "energy", 1.2345678901234567, 0.02)


@pytest.mark.parametrize("settings", [Calibration(1.5), Calibration(0.7, POINT)])
def test_what_is_written_is_read_again(settings, tmp_path):
    how = InputTruncation(20, "windows")
    (tmp_path / INFERENCE_CONFIG_FILENAME).write_text(format_inference_config(settings, how))
    assert load_calibration(tmp_path) == settings
    assert load_input_truncation(tmp_path) == how


def test_a_model_that_brings_nothing_brings_nothing(tmp_path):
    assert load_calibration(tmp_path) is None
    assert load_input_truncation(tmp_path) == InputTruncation()


GOOD = json.loads(format_inference_config(Calibration(0.7, POINT), InputTruncation()))


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "{}", '"text"', "null", '{"temperature": 0, "operating_point": null}',
        '{"temperature": "x", "operating_point": null}', '{"temperature": 1, "operating_point": 5}',
        json.dumps({**GOOD, "temperature": -1}),
        json.dumps({**GOOD, "max_length": "20"}),
        json.dumps({**GOOD, "truncate": "middle"}),
        json.dumps({**GOOD, "operating_point": {**GOOD["operating_point"], "score": "luck"}}),
        json.dumps({**GOOD, "operating_point": {**GOOD["operating_point"], "score": [1]}}),
        '{"temperature": NaN, "operating_point": null}',
        json.dumps({**GOOD, "operating_point": {**GOOD["operating_point"], "threshold": None}}),
    ],
)  # fmt: skip
def test_a_damaged_file_is_said(content, tmp_path):
    (tmp_path / INFERENCE_CONFIG_FILENAME).write_text(content)
    with pytest.raises(ModelError, match=r"kd\.json is damaged"):
        load_calibration(tmp_path)


def test_a_file_that_is_no_text_is_said(tmp_path):
    (tmp_path / INFERENCE_CONFIG_FILENAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match=r"kd\.json is damaged"):
        load_calibration(tmp_path)
