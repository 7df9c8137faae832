"""The table fits a terminal, and the words say what is noise."""

import json

import pytest

from kdcli.cli.common import show_evaluation_table
from kdcli.cli.console import Console
from kdcli.evaluation.output import comparison_summary


@pytest.fixture(scope="module")
def evaluation(run):
    return json.loads((run / "evaluation.json").read_text())


def test_the_table_has_the_figures_that_decide(evaluation):
    titles = [row[0].strip() for row in comparison_summary.comparison_table_rows(evaluation)]
    each = ["accuracy", "difference", "macro F1", "in-scope accuracy", "out-of-scope recall",
            "agreement", "calibration error", "with threshold", "recall"]  # fmt: skip
    costs = ["parameters", "weights", "latency, median", "latency, 95th perc.",
             "texts per second", "speed-up"]  # fmt: skip
    expected = ["validation, 180 texts", *each, "test, 284 texts", *each, "cost", *costs]
    assert [title for title in titles if title != "without repeats"] == expected


def test_three_models_fit_eighty_columns(evaluation, capsys, monkeypatch):
    monkeypatch.setattr("kdcli.cli.console._PLAIN_WIDTH", 80)
    teacher, student = evaluation["models"]
    three = {**evaluation, "models": [teacher, student, {**student, "name": "baseline"}]}
    show_evaluation_table(three, {}, "", Console())
    table = capsys.readouterr().out.partition("\nvalidation: ")[0]
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    # No cell was folded: a line for each row, the header, its rule.
    assert (
        len([line for line in lines if line.strip()])
        == len(comparison_summary.comparison_table_rows(three)) + 2
    )


def row_of_test(evaluation, title):
    rows = comparison_summary.comparison_table_rows(evaluation)
    start = next(i for i, row in enumerate(rows) if row[0].startswith("test, "))
    return next(row for row in rows[start:] if row[0].strip() == title)[1:]


def changed(evaluation, p=0.5, **gap):
    copy = json.loads(json.dumps(evaluation))
    against = copy["models"][1]["splits"]["test"]["against"]["teacher"]
    against["differences"]["accuracy"] |= gap
    against["p"] = p
    return copy


def test_a_difference_inside_the_noise_is_called_so_in_table_and_words(evaluation):
    noise = changed(evaluation, value=-0.002, low=-0.006, high=0.002, noise=True)
    assert row_of_test(noise, "difference") == ["", "-0.20, n. s."]
    words = next(
        said for said in comparison_summary.comparison_remarks(noise) if said.startswith("test: ")
    )
    assert "not significant" in words
    assert "-0.60 to +0.20, McNemar p = 0.5" in words


def test_a_difference_beyond_it_is_said_with_its_side(evaluation):
    real = changed(evaluation, p=1e-9, value=-0.04, low=-0.06, high=-0.02, noise=False)
    assert row_of_test(real, "difference") == ["", "-4.00"]
    words = next(
        said for said in comparison_summary.comparison_remarks(real) if said.startswith("test: ")
    )
    assert "not significant" not in words
    assert "4.00 points lower" in words
    assert "McNemar p < 0.001" in words


@pytest.mark.parametrize(
    ("gap", "noise", "told"), [(-0.02, False, 1), (-0.02, True, 0), (0.02, False, 0)]
)
def test_a_teacher_that_is_worth_less_than_labels_alone_is_told_of(evaluation, gap, noise, told):
    copy = json.loads(json.dumps(evaluation))
    for split in copy["examples"]:
        against = copy["models"][1]["splits"][split]["against"]
        found = {"value": gap, "low": gap - 0.01, "high": gap + 0.01, "noise": noise}
        against["baseline"] = {"differences": {"accuracy": found}}
    words = [said for said in comparison_summary.comparison_remarks(copy) if "baseline" in said]
    assert len(words) == told, "once, not for each split"
    assert all("2.00 below" in said for said in words)


def test_a_model_alone_has_no_empty_rows(evaluation):
    alone = {**evaluation, "models": [evaluation["models"][0]]}
    titles = [row[0].strip() for row in comparison_summary.comparison_table_rows(alone)]
    assert not {"difference", "agreement", "speed-up"} & {*titles}


def test_a_student_that_gives_one_label_is_warned_of(evaluation):
    copy = json.loads(json.dumps(evaluation))
    assert comparison_summary.models_with_one_label(copy) == []
    student = copy["models"][1]["splits"]["test"]
    student["confusion"] = [[label, 3, 10] for label in range(4)]
    assert comparison_summary.models_with_one_label(copy) == [("student", "test")]
    remarks = comparison_summary.comparison_remarks(copy)
    assert any("the student gives every text the same label" in said for said in remarks)


def test_an_interval_that_excludes_0_is_not_called_noise(evaluation):
    few = changed(evaluation, value=-0.02, low=-0.04, high=-0.001, noise=True, p=0.07)
    words = next(
        said for said in comparison_summary.comparison_remarks(few) if said.startswith("test: ")
    )
    assert "too few texts to tell" in words
    assert "not significant" not in words
