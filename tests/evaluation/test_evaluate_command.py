"""`kd evaluate` as it is typed: its exit codes, files and formats."""

import csv
import json
import re
from functools import partial
from xml.etree import ElementTree

import forked
import helpers
import pandas as pd
import pyarrow.parquet as pq
import pytest

from kdcli.evaluation.calibration.inference_config import INFERENCE_CONFIG_FILENAME

SPLIT = ("--split", "test")


kd = partial(helpers.kd, "evaluate")


@pytest.fixture(scope="module")
def measured(run):
    """The run's two models on test, as JSON."""
    done = kd(run, *SPLIT, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        (["--fail-under", "accuracy=0.01", "--fail-over", "megabytes=1000"], 0),
        (["--fail-under", "accuracy=0.999"], 1),
        (["--fail-under", "test.accuracy.low=0.999", "--fail-over", "megabytes=0.001",
          "--max-drop", "accuracy=0.9"], 1),
        (["--max-drop", "accuracy=-0.9"], 1),
        (["--max-drop", "accuracy.low=1"], 0),
    ],
)  # fmt: skip
def test_gates_decide_the_exit_code(run, gates, code):
    done = kd(run, *SPLIT, *gates, "--json")
    assert done.exit_code == code, done.stderr
    document = json.loads(done.stdout)
    assert len(document["gates"]) == len(gates) // 2
    failed = [gate for gate in document["gates"] if not gate["passed"]]
    assert bool(failed) == (code == 1)
    # One line for each that was missed, after the line that counts them.
    errors = done.stderr.partition("Error: ")[2].splitlines()
    assert errors[1:] == document["missed"]
    assert len(document["missed"]) == len(failed)


def test_the_process_itself_ends_with_1(run):
    done = forked.kd("evaluate", run, *SPLIT, "--fail-under", "accuracy=0.999")
    assert done.returncode == 1
    assert "test, 284 texts" in done.stdout
    assert "student: test accuracy is 0." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--fail-under", "acuracy=1"], "Did you mean accuracy?"),
        (["--output", "nowhere/x.json"], "there is no folder nowhere"),
        (["--output", "."], "is a folder"),
        (["--per-example", "nowhere/x.csv"], "there is no folder nowhere"),
        (["--per-example", "x.xlsx"], ".parquet, .csv, .jsonl"),
        (["--max-false-rejection-rate", "1.5"], "--max-false-rejection-rate"),
        (["--reference-model", "./nothing"], "no model folder ./nothing"),
        (["--json", "--format", "junit"], "both want standard output"),
    ],
)
def test_a_mistake_is_said_before_anything_is_measured(run, wrong, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = kd(run, *SPLIT, *wrong)
    assert done.exit_code == 2, done.stderr
    assert says in done.stderr
    assert ": measure" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_file_holds_what_json_shows(run, tmp_path):
    done = kd(run, *SPLIT, "--json", "--output", tmp_path / "e.json")
    shown = json.loads(done.stdout)
    assert shown.pop("gates") == shown.pop("missed") == []
    assert json.loads((tmp_path / "e.json").read_text()) == shown


def read(file):
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_each_text_with_what_each_model_says(run, help_desk, measured, tmp_path, ending):
    file = tmp_path / f"each.{ending}"
    assert kd(run, *SPLIT, "--per-example", file, "--quiet").exit_code == 0
    rows = read(file)
    assert list(rows[0]) == [
        "split", "text", "label", "teacher_label", "teacher_probability", "student_label",
        "student_probability",
    ]  # fmt: skip
    assert [row["text"] for row in rows] == list(help_desk["test"]["text"])
    assert [row["label"] for row in rows] == list(help_desk["test"]["intent"])
    for model in measured["models"]:
        right = sum(row["label"] == row[f"{model['name']}_label"] for row in rows)
        assert right / len(rows) == model["splits"]["test"]["accuracy"]
        assert all(1 / 17 < float(row[f"{model['name']}_probability"]) <= 1 for row in rows)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_awkward_texts_come_back_from_csv_as_they_were(run, tmp_path):
    texts = ['say "hi", please\nsecond line', "=1+1", "naïve — 漢字 🙂", "null", " spaces "]
    data = tmp_path / "mine.csv"
    pd.DataFrame({"text": texts, "intent": ["promo_code"] * 5}).to_csv(data, index=False)
    done = kd(run / "student", "--data", data, "--label", "intent",
              "--per-example", tmp_path / "each.csv")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert [row["text"] for row in read(tmp_path / "each.csv")] == texts
    frame = pd.read_csv(tmp_path / "each.csv", keep_default_na=False)
    assert list(frame["text"]) == texts


def test_github_gets_annotations_and_a_step_summary(run, tmp_path, monkeypatch):
    step = tmp_path / "summary.md"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    done = kd(run, *SPLIT, "--format", "github", "--fail-under", "accuracy=0.999",
              "--fail-under", "accuracy=0.001")  # fmt: skip
    assert done.exit_code == 1
    commands = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert len(commands) == 1
    assert commands[0].startswith("::error title=--fail-under accuracy=0.999::student: test ")
    written = step.read_text()
    assert written.startswith("before\n")
    assert "| accuracy |" in written
    assert written.count("❌") == written.count("✅") == 1


def test_github_without_a_summary_file_is_no_error(run, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    done = kd(run, *SPLIT, "--format", "github")
    assert done.exit_code == 0
    assert "::error" not in done.stdout


def test_a_summary_file_that_can_t_be_written_is_said(run, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "nowhere" / "summary.md"))
    done = kd(run, *SPLIT, "--format", "github")
    assert done.exit_code == 2
    assert "GITHUB_STEP_SUMMARY" in done.stderr


def test_junit_is_all_that_standard_output_gets(run):
    done = kd(run, *SPLIT, "--format", "junit", "--fail-under", "accuracy=0.999",
              "--fail-under", "accuracy=0.001")  # fmt: skip
    assert done.exit_code == 1
    root = ElementTree.fromstring(done.stdout.encode())
    assert [len(case.findall("failure")) for case in root.iter("testcase")] == [1, 0]


def test_the_student_brings_its_threshold_to_texts_of_any_kind(run, tmp_path):
    """No validation text is there, and the out-of-scope label isn't named."""
    data = tmp_path / "mine.csv"
    rows = [("where is my parcel", "track_order"), ("sing me a song", "out_of_scope")]
    pd.DataFrame(rows, columns=["text", "intent"]).to_csv(data, index=False)
    done = kd(run / "student", "--data", data, "--label", "intent", "--json")
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["models"]
    assert found["settings"].pop("from") == "model"
    own = json.loads((run / "student" / INFERENCE_CONFIG_FILENAME).read_text())
    assert (own.pop("max_length"), own.pop("truncate")) == (64, None)
    assert found["settings"] == own
    assert "accuracy_at_threshold" in found["splits"]["test"]


def test_the_students_own_threshold_is_the_runs(run, measured):
    whole = json.loads((run / "evaluation.json").read_text())
    mine, its = (d["models"][1] for d in (measured, whole))
    assert mine["settings"] == {**its["settings"], "from": "model"}
    for name in ("accuracy", "accuracy_at_threshold", "ece_calibrated"):
        assert mine["splits"]["test"][name] == pytest.approx(its["splits"]["test"][name])


def test_another_budget_is_chosen_anew_on_validation(run):
    done = kd(run / "student", *SPLIT, "--max-false-rejection-rate", "0.3", "--json")
    (found,) = json.loads(done.stdout)["models"]
    assert found["settings"]["from"] == "validation"
    assert found["settings"]["operating_point"]["refuse_at_most"] == 0.3
    own = json.loads((run / "student" / INFERENCE_CONFIG_FILENAME).read_text())["operating_point"]
    assert found["settings"]["operating_point"]["threshold"] > own["threshold"]


def test_a_model_that_is_not_the_students_teacher_can_be_the_yardstick(run, tmp_path):
    older = tmp_path / "older"
    older.symlink_to(run / "student")
    done = kd(run, *SPLIT, "--reference-model", older, "--max-drop", "accuracy=0", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    # It is the student itself, wherever it is named from.
    assert [model["name"] for model in found["models"]] == ["teacher", "student"]
    assert found["against"] == "student"
    assert [model["reference"] for model in found["models"]] == ["student", None]


def test_remarks_compare_with_the_named_model(run):
    done = kd(run, *SPLIT, "--reference-model", "student")
    assert re.search(r"accuracy of the teacher is [\d.]+ points \w+ than", done.stdout)
    assert re.search(r"teacher is wrong on \d+ texts", " ".join(done.stdout.split()))
