"""Data sets are labelled as `kd evaluate` labels them, row by row, and survive a kill."""

import csv
import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import helpers
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import kdcli
from kdcli.api.cascade import CascadeClassifier
from kdcli.api.prediction_files import (
    PredictionOptions,
    RowLabeler,
    find_text_columns,
    predict_to_file,
)
from kdcli.data.readers.row_streams import stream_files, stream_texts
from kdcli.data.row_writers import OUTPUT_SUFFIXES
from kdcli.errors import DataError, UsageError
from kdcli.progress import SilentReporter
from kdcli.runtime import TextClassifier

OUT_OF_SCOPE = {
    "temperature": 1.0,
    "operating_point": {
        "label": "out_of_scope", "score": "margin", "threshold": 0.0, "refuse_at_most": 0.1,
    },
}  # fmt: skip


class WordCounter(TextClassifier):
    """Labels a text by its number of words, up to three; quick, and easily predicted."""

    def __init__(self, folder, *, fail_after=None):
        super().__init__(folder, ["none", "one", "two", "more"], "single_label_classification")
        self.left = fail_after

    def _compute_logits(self, texts, first_index, batch_size, advance):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        counts = [min(len((t if isinstance(t, str) else " ".join(t)).split()), 3) for t in texts]
        return np.eye(4, dtype=np.float32)[counts]


def read_back(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file, delimiter=delimiter)]


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(50):
            row = {
                "id": i,
                "text": "w " * (i % 5) + 'an "odd", cell',
                "note": None if i < 30 else "é",
            }
            file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_labels_are_those_of_evaluate(exported, small_data, help_desk, runtime):
    folder = exported
    classifier = kdcli.load(folder, runtime=runtime, device="cpu")
    report = kdcli.evaluate(folder, data=small_data, label="intent", splits=["test"])
    name = "exported" if runtime == "torch" else "exported-int8"
    ids = report.comparison.predictions["test"][name].predicted
    expected = [report.comparison.labels[i] for i in ids]
    rows = [*kdcli.predict(classifier, small_data, split="test")]
    assert [row["label"] for row in rows] == expected
    probabilities = [row["probability"] for row in rows]
    assert all(0 < p <= 1 for p in probabilities)
    texts = [row["text"] for row in rows]
    assert [p.label for p in classifier.predict(texts)] == expected


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_columns_are_kept_and_predictions_added(tmp_path, rows_file, suffix):
    output = tmp_path / f"out{suffix}"
    summary = kdcli.predict(WordCounter(tmp_path), rows_file, output, text="text", top_k=2)
    rows = read_back(output)
    assert [*rows[0]] == [
        "id", "text", "note", "label", "probability",
        "top1_label", "top1_probability", "top2_label", "top2_probability",
    ]  # fmt: skip
    assert [int(row["id"]) for row in rows] == [*range(50)]
    assert [row["text"] for row in rows] == ["w " * (i % 5) + 'an "odd", cell' for i in range(50)]
    assert {row["label"] for row in rows} == {"more"}
    assert float(rows[0]["probability"]) == pytest.approx(np.e / (np.e + 3))
    assert (summary.rows, summary.labels) == (50, {"more": 50})
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_a_call_that_was_stopped_goes_on_to_the_same_bytes(tmp_path, rows_file, suffix):
    options = PredictionOptions(text=("text",), chunk_rows=7)
    whole, broken = tmp_path / f"whole{suffix}", tmp_path / f"broken{suffix}"
    stream = stream_files([rows_file])
    full = predict_to_file(WordCounter(tmp_path), stream, whole, options, SilentReporter())
    for chunks in (3, 0, 2):
        with pytest.raises(KeyboardInterrupt):
            predict_to_file(
                WordCounter(tmp_path, fail_after=chunks), stream, broken, options, SilentReporter()
            )
        assert not broken.exists()
        if suffix != ".parquet":  # rows of a chunk that was not noted
            with (tmp_path / f".broken{suffix}.partial" / "rows").open("ab") as file:
                file.write(b'{"text": "half a ro')
    listener = helpers.Listener()
    resumed = predict_to_file(WordCounter(tmp_path), stream, broken, options, listener)
    assert any("35" in note for note in listener.said)
    assert broken.read_bytes() == whole.read_bytes()
    assert (resumed.rows, resumed.labels) == (full.rows, full.labels)


def test_other_options_or_data_start_anew(tmp_path, rows_file):
    output, stream = tmp_path / "out.jsonl", stream_files([rows_file])
    options = PredictionOptions(text=("text",), chunk_rows=7)
    with pytest.raises(KeyboardInterrupt):
        predict_to_file(
            WordCounter(tmp_path, fail_after=2), stream, output, options, SilentReporter()
        )
    rows_file.write_text('{"text": "only this"}\n', encoding="utf-8")
    listener = helpers.Listener()
    predict_to_file(WordCounter(tmp_path), stream, output, options, listener)
    assert any("anew" in note for note in listener.said)
    assert [row["text"] for row in read_back(output)] == ["only this"]


def test_another_teacher_of_a_cascade_starts_anew(tmp_path, rows_file):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    output, stream = tmp_path / "out.jsonl", stream_files([rows_file])
    options = PredictionOptions(text=("text",), chunk_rows=7)
    student, teacher = WordCounter(tmp_path / "a", fail_after=2), WordCounter(tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        cascade = CascadeClassifier(student, teacher, 0.1)
        predict_to_file(cascade, stream, output, options, SilentReporter())
    student.left, listener = None, helpers.Listener()
    cascade = CascadeClassifier(student, teacher, 0.9)
    summary = predict_to_file(cascade, stream, output, options, listener)
    assert any("anew" in note for note in listener.said)
    assert summary.deferred == 50


def test_the_text_column_is_that_of_the_models_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = "name: x\ndata: {dataset: d, text: said}\nteacher: {model: m}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    (tmp_path / "student").mkdir()
    assert find_text_columns("student") == ("said",)
    assert find_text_columns("owner/model") == (), "the working folder is no run of a Hub model"
    (tmp_path / "recipe.yaml").write_text("broken: {")
    assert find_text_columns("student") == ()


def test_bad_rows_are_named_and_skipped_when_asked(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text('text,n\none two,1\n,2\n"a,3\nb,4,5\nthree,6\n', encoding="utf-8")
    with pytest.raises(DataError):
        kdcli.predict(WordCounter(tmp_path), path, tmp_path / "out.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.csv"], "nothing is begun"
    path = tmp_path / "bad.jsonl"
    lines = [
        '{"text": "a b"}',
        "{",
        '{"text": 5}',
        "[]",
        '{"text": " "}',
        '{"no": 1}',
        '{"text": "c"}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    listener = helpers.Listener()
    summary = kdcli.predict(
        WordCounter(tmp_path), path, tmp_path / "out.jsonl", on_error="skip", reporter=listener
    )
    assert (summary.rows, summary.skipped) == (2, 5)
    assert [row["label"] for row in read_back(tmp_path / "out.jsonl")] == ["two", "one"]
    for line in range(2, 7):
        assert any(f"bad.jsonl:{line}:" in note for note in listener.said)


def test_every_format_is_read(tmp_path, exported):
    frame = pd.DataFrame({"text": ["one", "two words"], "when": pd.Timestamp("2024-03-01")})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    with gzip.open(tmp_path / "a.tsv.gz", "wt", encoding="utf-8") as file:
        frame.to_csv(file, sep="\t", index=False)
    dataset = datasets.Dataset.from_dict(
        {"text": ["one", "two words"], "kind": [1, 0]},
        features=datasets.Features(
            text=datasets.Value("string"), kind=datasets.ClassLabel(names=["x", "y"])
        ),
    )
    dataset.save_to_disk(tmp_path / "saved")
    classifier = WordCounter(tmp_path)
    sources = ["a.parquet", "a.xlsx", "a.tsv.gz", "saved"]
    for source in [*(tmp_path / name for name in sources), frame, dataset]:
        rows = [*kdcli.predict(classifier, source)]
        assert [row["label"] for row in rows] == ["one", "two"], source
    assert [row["kind"] for row in kdcli.predict(classifier, dataset)] == ["y", "x"]
    output = tmp_path / "out.jsonl"
    kdcli.predict(classifier, tmp_path / "a.parquet", output)
    assert read_back(output)[0]["when"].startswith("2024-03-01")


def test_pairs_and_clashing_columns(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("premise,hypothesis,label\na b,c,yes\nd,e,no\n", encoding="utf-8")
    classifier = WordCounter(tmp_path)
    rows = [*kdcli.predict(classifier, path, text=["premise", "hypothesis"])]
    answers = [(row["label"], row["predicted_label"]) for row in rows]
    assert answers == [("yes", "more"), ("no", "two")]
    rows = [*kdcli.predict(classifier, path, text="premise")]
    assert [row["predicted_label"] for row in rows] == ["two", "one"]
    with pytest.raises(DataError, match="--text"):
        kdcli.predict(classifier, path)
    path.write_text("text,label,predicted_label\na,b,c\n", encoding="utf-8")
    with pytest.raises(DataError, match="predicted_label"):
        kdcli.predict(classifier, path)


def test_refusals_several_labels_and_scores(tmp_path):
    (tmp_path / "kd.json").write_text(json.dumps(OUT_OF_SCOPE))

    class Fixed(WordCounter):
        def __init__(self, labels, task, logits):
            TextClassifier.__init__(self, tmp_path, labels, task)
            self.logits = np.array(logits, dtype=np.float32)

        def _compute_logits(self, texts, first_index, batch_size, advance):
            return self.logits[: len(texts)]

    stream = stream_texts("texts", ["a", "b"])
    refusing = Fixed(["out_of_scope", "x"], "single_label_classification", [[1, 0], [0, 1]])
    labeler = RowLabeler(refusing, stream, PredictionOptions(), SilentReporter())
    (rows,) = labeler.iterate_chunks()
    assert [(row["label"], row["refused"]) for row in rows] == [
        ("out_of_scope", True),
        ("x", False),
    ]
    (tmp_path / "kd.json").unlink()
    several = Fixed(["x", "y"], "multi_label_classification", [[1, 2], [-1, -2]])
    (rows,) = RowLabeler(several, stream, PredictionOptions(), SilentReporter()).iterate_chunks()
    assert [row["labels"] for row in rows] == [["x", "y"], []]
    scores = Fixed(["score"], "regression", [[1.5], [2.5]])
    (rows,) = RowLabeler(scores, stream, PredictionOptions(), SilentReporter()).iterate_chunks()
    assert rows == [{"text": "a", "score": 1.5}, {"text": "b", "score": 2.5}]


def test_an_output_is_never_overwritten_unasked(tmp_path, rows_file):
    output = tmp_path / "out.csv"
    output.write_text("mine")
    with pytest.raises(UsageError):
        kdcli.predict(WordCounter(tmp_path), rows_file, output, text="text")
    assert output.read_text() == "mine"
    kdcli.predict(WordCounter(tmp_path), rows_file, output, text="text", fresh=True)
    assert len(read_back(output)) == 50
    for bad in ("out.xml", "nowhere/out.csv"):
        with pytest.raises(UsageError):
            kdcli.predict(WordCounter(tmp_path), rows_file, tmp_path / bad, text="text")


def test_types_that_parquet_cannot_mix_are_named(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"text": "a", "x": 1}\n{"text": "b", "x": "one"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="x"):
        kdcli.predict(WordCounter(tmp_path), path, tmp_path / "out.parquet", text="text")


def test_a_file_is_read_a_chunk_at_a_time(tmp_path, monkeypatch):
    taken = []
    texts = (taken.append(i) or "a" for i in range(100))
    labeler = RowLabeler(
        WordCounter(tmp_path), stream_texts("texts", texts), PredictionOptions(chunk_rows=10),
        SilentReporter(),
    )  # fmt: skip
    next(labeler.iterate_chunks())
    assert len(taken) == 10


@pytest.mark.slow  # several minutes
def test_killed_ten_times_a_million_rows_are_the_same_bytes(tmp_path, exported):
    source, few, script = (tmp_path / name for name in ("million.csv", "few.csv", "label.py"))
    for path, count in ((source, 1_000_000), (few, 50_000)):
        with path.open("w", encoding="utf-8") as file:
            file.write("id,text\n")
            file.writelines(f"{i},{'word ' * (i % 5)}end\n" for i in range(count))
    tests = Path(__file__).parent
    script.write_text(
        f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n"
        "import resource, kdcli\nfrom pathlib import Path\n"
        "from test_prediction_files import WordCounter\n"
        f"kdcli.predict(WordCounter(Path({str(tmp_path)!r}) / 'model'), sys.argv[1], sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    (tmp_path / "model").mkdir()
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    command = [sys.executable, str(script)]

    def peak_kilobytes(*arguments):
        return int(subprocess.run([*command, *arguments], check=True, capture_output=True).stdout)

    peak_of_few = peak_kilobytes(few, tmp_path / "few-labelled.csv")
    assert peak_kilobytes(source, whole) < peak_of_few + 50_000
    progress = tmp_path / ".broken.csv.partial" / "progress.json"
    for _ in range(10):
        before = progress.read_text() if progress.exists() else ""
        process = subprocess.Popen([*command, source, broken])
        while not progress.exists() or progress.read_text() == before:
            time.sleep(0.05)
        time.sleep(random.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not broken.exists()
    peak_kilobytes(source, broken)
    assert broken.read_bytes() == whole.read_bytes()
