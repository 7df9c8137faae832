"""A cascade answers as its student where it is sure, and as its teacher elsewhere."""

import json
import shutil

import helpers
import numpy as np
import pytest

import kdcli
from kdcli.api.cascade import CascadeClassifier
from kdcli.errors import ModelError, UsageError


@pytest.fixture
def student(exported, tmp_path):
    """A copy of the exported student that a rule can be written to."""
    return shutil.copytree(exported, tmp_path / "student")


def test_texts_below_the_threshold_get_the_teachers_answer(
    student, tiny_teacher, help_desk, tmp_path
):
    texts = help_desk["test"]["text"][:60]
    small, large = kdcli.load(student), kdcli.load(tiny_teacher, device="cpu")
    alone = small.predict(texts)
    threshold = float(np.median([each.score for each in alone]))
    log = tmp_path / "deferred.jsonl"
    cascade = CascadeClassifier(small, large, threshold, log=log)
    answers = cascade.predict(texts)
    for text, own, answer in zip(texts, alone, answers, strict=True):
        assert answer.deferred == (own.score < threshold)
        assert answer.label == (large.predict([text])[0].label if answer.deferred else own.label)
    logged = [json.loads(line)["text"] for line in log.read_text(encoding="utf-8").splitlines()]
    assert logged == [t for t, own in zip(texts, alone, strict=True) if own.score < threshold]
    assert (cascade.texts, cascade.deferred) == (60, len(logged))


def test_evaluate_writes_the_rule_that_predict_applies(
    student, tiny_teacher, small_data, help_desk, tmp_path
):
    report = kdcli.evaluate(
        [tiny_teacher, student], data=small_data, label="intent",
        splits=["validation", "test"], cascade={"agreement": 0.3}, confidence=0.9,
        overrides={"evaluate.latency_texts": 2, "evaluate.baselines": []},
    )  # fmt: skip
    (entry,) = report.evaluation["cascade"]
    assert (entry["student"], entry["teacher"]) == ("student-int8", tiny_teacher.name)
    rule = json.loads((student / "cascade.json").read_text())
    assert rule["threshold"] == entry["rule"]["threshold"]
    texts = help_desk["test"]["text"][:50]
    source, output = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    done = helpers.kd("predict", student, source, "--cascade", tiny_teacher, "-o", output)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    scores = [each.score for each in kdcli.load(student).predict(texts)]
    assert [row["deferred"] for row in rows] == [score < rule["threshold"] for score in scores]


def test_the_share_deferred_is_watched(student, tiny_teacher):
    rule = {"threshold": 0.0, "deferred_interval": [0.4, 0.5]}
    (student / "cascade.json").write_text(json.dumps(rule))
    cascade = CascadeClassifier(kdcli.load(student), kdcli.load(tiny_teacher, device="cpu"))
    cascade.predict(["my parcel"] * 100)
    assert cascade.alarm is None, "too few texts to tell"
    cascade.predict(["my parcel"] * 200)
    assert "40.0%" in cascade.alarm
    cascade.texts, cascade.deferred = 1_000, 470
    assert cascade.alarm is None


def test_what_makes_no_cascade_is_refused(student, tiny_teacher, small_data, tmp_path):
    small, large = kdcli.load(student), kdcli.load(tiny_teacher, device="cpu")
    with pytest.raises(UsageError, match=r"cascade\.json"):
        CascadeClassifier(small, large)
    (student / "cascade.json").write_text("{}")
    with pytest.raises(ModelError, match=r"cascade\.json"):
        CascadeClassifier(small, large)
    large.labels = ("other", *large.labels[1:])
    with pytest.raises(ModelError, match="labels"):
        CascadeClassifier(small, large, 0.5)
    arguments = ("evaluate", tiny_teacher, student, "--data", small_data, "--label", "intent")
    for flags, word in (
        (("--split", "test"), "validation"),
        (("--max-drop", "macro_f1=0.1"), "macro_f1"),
        (("--max-drop", "accuracy=2"), "between"),
    ):
        done = helpers.kd(*arguments, "--cascade", *flags)
        assert done.exit_code == 2
        assert word in done.stderr
