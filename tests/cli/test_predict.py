"""`kd predict` at the terminal: texts, files, pipes, and what it refuses."""

import json
import os
import pty
import subprocess
import sys

import helpers
import pytest

import kdcli

KD = [sys.executable, "-m", "kdcli"]


@pytest.fixture
def answers(exported):
    """The labels of texts by the exported model."""
    classifier = kdcli.load(exported)
    return lambda texts: [prediction.label for prediction in classifier.predict(texts)]


def labels(output):
    return [json.loads(line)["label"] for line in output.splitlines()]


def test_texts_are_labelled_in_order(exported, answers):
    texts = ["where is my parcel", "hello.", "a.b", "My order, again!"]
    assert labels(helpers.kd_stdout("predict", exported, *texts)) == answers(texts)


def test_a_pipe_is_labelled_line_by_line(exported, answers):
    lines = ["where is my parcel", "ça va?"]
    done = subprocess.run(
        [*KD, "predict", exported], input="\n".join(lines).encode(), capture_output=True, check=True
    )
    assert labels(done.stdout.decode()) == answers(lines)
    broken = subprocess.run(
        [*KD, "predict", exported, "-"], input=b"fine\n\xff\n", capture_output=True, check=False
    )
    assert broken.returncode == 2
    assert b"line 2" in broken.stderr


def test_a_closed_pipe_ends_quietly(exported, tmp_path):
    source = tmp_path / "many.csv"
    source.write_text("text\n" + "where is my parcel\n" * 9_000)
    command = f"{sys.executable} -m kdcli predict {exported} {source} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == b""


def test_a_file_is_written_with_a_summary(exported, small_data, tmp_path):
    output = tmp_path / "out.csv"
    done = helpers.kd("predict", exported, "--data", small_data, "-o", output, "--json")
    assert done.exit_code == 0
    summary = json.loads(done.stdout)
    assert summary["rows"] == sum(summary["labels"].values())
    assert len(output.read_text(encoding="utf-8").splitlines()) == summary["rows"] + 1


def test_a_terminal_gets_a_table_that_fits(exported):
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
        os.execve(KD[0], [*KD, "predict", str(exported), "where is my parcel " * 9], environment)
    written = b""
    try:
        while part := os.read(terminal, 4096):
            written += part
    except OSError:
        pass  # the terminal is closed
    os.waitpid(pid, 0)
    shown = [line.rstrip() for line in written.decode().splitlines() if line.strip()]
    assert all(len(line) <= 80 for line in shown)
    assert len(shown) == 2
    assert shown[0].split() == ["label", "probability", "text"]
    assert shown[1].endswith("…")


def test_what_is_no_input_is_refused(exported, refuses, tmp_path):
    assert "nofile.csv" in refuses("predict", exported, "nofile.csv")
    assert "one file" in refuses("predict", exported, "a text", exported)
    assert "--data" in refuses("predict", exported, "a text", "--data", "x.csv")
    data = tmp_path / "data.csv"
    data.write_text("text\na\n")
    assert "no column" in refuses("predict", exported, data, "--text", "no column")
    assert "--output" in refuses("predict", exported, "a text", "-o", "out.xml")
    assert "nothing" in refuses("predict", exported / "nothing", "a text")
