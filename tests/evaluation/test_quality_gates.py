"""Gates hold models to figures."""

import pytest

from kdcli.errors import UsageError
from kdcli.evaluation.ci.quality_gates import check_quality_gates, parse_quality_gate
from kdcli.evaluation.metrics.metric_catalog import COST_METRICS


def model(name, reference, accuracy, ms):
    figures = {
        split: {
            "accuracy": value,
            "ece": 0.03,
            "intervals": {"accuracy": (value - 0.02, value + 0.02), "ece": (0.01, 0.05)},
            "against": {
                other: {"differences": {"accuracy": {"value": -0.01, "low": -0.03, "high": 0.01}}}
                for other in ("teacher", "student", "baseline")
                if other != name
            },
        }
        for split, value in accuracy.items()
    }
    if reference:
        for one in figures.values():
            one["agreement"] = 0.95
    costs = dict.fromkeys(COST_METRICS, 10.0)
    found = {"name": name, "reference": reference, **costs, "splits": figures,
             "latency_ms": {"p50": ms, "p95": 2 * ms}}  # fmt: skip
    return found | ({"relative": {"latency_ms_p50": ms / 10}} if reference else {})


TEACHER = model("teacher", None, {"validation": 0.2, "test": 0.2}, 10)
STUDENT = model("student", "teacher", {"validation": 0.9, "test": 0.8}, 5)
BASELINE = model("baseline", "teacher", {"validation": 0.85, "test": 0.75}, 5)
BOTH = {"examples": {"validation": 10, "test": 10}, "against": None, "models": [TEACHER, STUDENT]}


def missed(*gates, evaluation=BOTH):
    return [
        str(c)
        for c in check_quality_gates([parse_quality_gate(*gate) for gate in gates], evaluation)
        if not c.passed
    ]


@pytest.mark.parametrize(
    ("flag", "gate", "count"),
    [
        ("--fail-under", "accuracy=0.95", 2),
        ("--fail-under", "accuracy=0.85", 1),
        ("--fail-under", "validation.accuracy=0.9", 0),
        ("--fail-under", "test.accuracy=0.81", 1),
        ("--fail-under", "test.accuracy.low=0.78", 0),
        ("--fail-under", "test.accuracy.low=0.79", 1),
        ("--fail-under", "accuracy.high=0.91", 1),
        ("--fail-under", "agreement=0.95", 0),
        ("--fail-over", "ece=0.02", 2),
        ("--fail-over", "ece.high=0.05", 0),
        ("--fail-over", "latency_ms_p50=5", 0),
        ("--fail-over", "latency_ms_p50=4.9", 1),
        ("--fail-over", "latency_ms_p95=9", 1),
        ("--fail-over", "relative.latency_ms_p50=0.6", 0),
        ("--fail-over", "relative.latency_ms_p50=0.4", 1),
        ("--fail-over", "megabytes=9.9", 1),
        ("--max-drop", "accuracy=0.01", 0),
        ("--max-drop", "accuracy=0.009", 2),
        ("--max-drop", "test.accuracy=0.009", 1),
        ("--max-drop", "accuracy.low=0.02", 2),
        ("--max-drop", "accuracy.low=0.03", 0),
        ("--max-drop", "accuracy.high=-0.02", 2),
    ],
)
def test_a_gate_holds_the_student_and_not_its_teacher(flag, gate, count):
    found = missed((flag, gate))
    assert len(found) == count
    assert all(phrase.startswith("student: ") for phrase in found)


def test_what_was_missed_is_said_with_both_numbers():
    low, cost, drop = missed(
        ("--fail-under", "test.accuracy.low=0.79"),
        ("--fail-over", "megabytes=9"),
        ("--max-drop", "test.accuracy=0.002"),
    )
    assert all(part in low for part in ("lower end of test accuracy", "0.7800", "0.79"))
    assert all(part in cost for part in ("megabytes", "10.0", "9"))
    assert all(part in drop for part in ("test accuracy", "0.0100", "0.002"))


def test_every_model_is_held_but_those_that_are_compared_with():
    three = {**BOTH, "models": [TEACHER, STUDENT, BASELINE]}
    gate = ("--fail-under", "test.accuracy=0.99")
    assert [m.partition(":")[0] for m in missed(gate, evaluation=three)] == ["student", "baseline"]
    named = {**three, "against": "baseline"}
    assert [m.partition(":")[0] for m in missed(gate, evaluation=named)] == ["student"]


def test_a_teacher_on_its_own_is_held_to_the_gates():
    alone = {**BOTH, "models": [TEACHER]}
    assert missed(("--fail-under", "test.accuracy=0.5"), evaluation=alone) == [
        "teacher: test accuracy is 0.2000, below 0.5"
    ]


@pytest.mark.parametrize(
    ("flag", "gate", "says"),
    [
        ("--fail-under", "accuracy", "[SPLIT.]METRIC"),
        ("--fail-under", "accuracy=high", "[SPLIT.]METRIC"),
        ("--fail-under", "accuracy=nan", "[SPLIT.]METRIC"),
        ("--fail-under", "accuracy=inf", "[SPLIT.]METRIC"),
        ("--fail-under", "=0.5", "unknown metric"),
        ("--fail-under", "f2=0.5", "unknown metric f2"),
        ("--fail-under", "acuracy=0.5", "Did you mean accuracy"),
        ("--fail-under", "dev.accuracy=0.5", "unknown metric dev.accuracy"),
        ("--fail-under", "test=0.5", "unknown metric test"),
        ("--fail-over", "test.megabytes=5", "no split"),
        ("--fail-over", "latency_ms_p50.high=5", "no interval"),
        ("--max-drop", "ece=0.1", "--fail-over"),
        ("--max-drop", "megabytes=5", "unknown metric megabytes"),
    ],
)
def test_a_gate_on_nothing_is_refused_before_anything_is_measured(flag, gate, says):
    with pytest.raises(UsageError, match=flag) as error:
        parse_quality_gate(flag, gate)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("flag", "gate", "evaluation"),
    [
        ("--fail-under", "train.accuracy=0.5", BOTH),
        ("--fail-under", "out_of_scope_recall=0.5", BOTH),
        ("--fail-under", "agreement.low=0.5", BOTH),
        ("--fail-under", "agreement=0.5", {**BOTH, "models": [TEACHER]}),
        ("--max-drop", "accuracy=0.5", {**BOTH, "models": [TEACHER]}),
        ("--fail-over", "relative.megabytes=0.5", {**BOTH, "models": [TEACHER]}),
    ],
)
def test_a_gate_on_what_was_not_measured_is_refused(flag, gate, evaluation):
    with pytest.raises(UsageError, match=flag):
        check_quality_gates([parse_quality_gate(flag, gate)], evaluation)
