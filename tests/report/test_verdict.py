"""The verdict says what the figures say, in the words of the field."""

import copy

import pytest

from kdcli.report.verdict import (
    describe_size_ratio,
    describe_speed_ratio,
    describe_verdict,
    verdict_tiles,
)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(0.77, "23 % smaller"), (0.25, "4.0 \N{MULTIPLICATION SIGN} smaller"), (1.0, "the same"),
     (0.01, "100 \N{MULTIPLICATION SIGN} smaller"), (1.1, "10 % larger")],
)  # fmt: skip
def test_sizes(ratio, words):
    assert describe_size_ratio(ratio) == words


@pytest.mark.parametrize(
    ("speed", "words"),
    [(2.01, "2.0 \N{MULTIPLICATION SIGN} faster"), (0.5, "2.0 \N{MULTIPLICATION SIGN} slower"),
     (1.02, "as fast"), (53.4, "53 \N{MULTIPLICATION SIGN} faster")],
)  # fmt: skip
def test_speeds(speed, words):
    assert describe_speed_ratio(speed) == words


def model(name, accuracy, milliseconds, megabytes, **more):
    gap = {"value": -0.01, "low": -0.02, "high": 0.0, "noise": False, **more}
    against = {} if name == "teacher" else {"teacher": {"differences": {"accuracy": gap}}}
    return {
        "name": name,
        "reference": None if name == "teacher" else "teacher",
        "megabytes": megabytes,
        "latency_ms": {"p50": milliseconds, "p95": milliseconds},
        "relative": {"latency_ms_p50": milliseconds / 10, "megabytes": megabytes / 400},
        "splits": {
            "test": {
                "accuracy": accuracy,
                "agreement": 0.95,
                "confusion": [[0, 0, 5], [1, 1, 5]],
                "against": against,
            }
        },
    }


@pytest.fixture
def evaluation():
    models = [model("teacher", 0.92, 10.0, 400.0), model("student", 0.91, 5.0, 300.0)]
    return {
        "task": "single_label_classification",
        "labels_from": "data",
        "examples": {"test": 1},
        "models": models,
    }


def test_a_significant_loss_is_named(evaluation):
    assert describe_verdict(evaluation, "test") == (
        "On 1 test text, the student's accuracy is 91.00 %, 1.00 points below its teacher's "
        "92.00 %; it is 2.0 \N{MULTIPLICATION SIGN} faster and 25 % smaller."
    )


def test_chance_is_no_difference(evaluation):
    evaluation["models"][1] = model("student", 0.91, 5.0, 300.0, noise=True)
    assert "not significantly different from" in describe_verdict(evaluation, "test")
    assert "not significant" in verdict_tiles(evaluation, "test")[0].lines[1]


def test_a_student_of_one_label_is_refused(evaluation):
    evaluation["models"][1]["splits"]["test"]["confusion"] = [[0, 0, 5], [1, 0, 5]]
    assert "do not use it" in describe_verdict(evaluation, "test")


def test_without_labels_it_is_agreement(evaluation):
    evaluation["labels_from"] = "teacher"
    assert "agrees with its teacher" in describe_verdict(evaluation, "test")


def test_exports_are_compared_with_the_teacher(evaluation):
    exported = copy.deepcopy(evaluation["models"][1])
    exported |= {"name": "student-int8", "exported_from": "student", "megabytes": 100.0}
    evaluation["models"].append(exported)
    size = verdict_tiles(evaluation, "test")[2]
    assert size.value == "25 % smaller"
    assert size.lines[-1] == "student-int8: 100.0 MB, 4.0 \N{MULTIPLICATION SIGN} smaller"


def test_a_black_box_teacher_has_no_costs(evaluation):
    for key in ("megabytes", "latency_ms", "relative"):
        del evaluation["models"][0][key]
    del evaluation["models"][1]["relative"]
    assert describe_verdict(evaluation, "test").endswith("92.00 %.")
    assert [tile.value for tile in verdict_tiles(evaluation, "test")[1:3]] == ["5.0 ms", "300.0 MB"]
