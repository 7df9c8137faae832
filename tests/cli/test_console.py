"""Plain in a pipe, live on a terminal, one document as JSON, nothing when quiet."""

import io
import json
import re
import shutil
import subprocess
import sys

import helpers
import pytest

from kdcli.cli.console import Console, format_duration
from kdcli.errors import DataError


@pytest.fixture(scope="module")
def recipe(tiny_backbone, small_data, tmp_path_factory):
    fit = "{epochs: 1, batch_size: 16, learning_rate: 1e-3}"
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(
        f"name: tiny\ndata: {{dataset: {small_data}, label: intent}}\n"
        f"teacher:\n  model: {tiny_backbone}\n  fine_tune: {fit}\n"
        f"distill: {fit}\nevaluate: {{latency_texts: 3, baselines: []}}\n"
    )
    return path


def kd(*arguments):
    done = helpers.kd(*arguments)
    assert done.exit_code == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def first(recipe, tmp_path_factory):
    """The folder of a run, and what was written during it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    # A process of its own: only there are the libraries' progress bars turned off in time.
    command = [sys.executable, "-m", "kdcli", "distill", str(recipe), "--output", str(folder)]
    return folder, subprocess.run(command, capture_output=True)


def test_a_pipe_gets_lines_and_no_control_characters(first):
    folder, done = first
    # As bytes: in text mode a progress bar's carriage returns would pass for ends of lines.
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    assert all(line.isprintable() for line in (stdout + stderr).split("\n"))
    for stage in (
        "teacher",
        "student",
        "outputs",
        "distill",
        "evaluate",
        "settings",
        "page",
        "card",
    ):
        assert f"{stage}: done in" in stderr
    assert "accuracy" in stdout
    assert f"kd card {folder} --push OWNER/NAME" in stdout


def test_as_json_a_run_is_one_document_and_progress_is_elsewhere(first, recipe):
    folder, _ = first
    again = kd("distill", recipe, "--output", folder, "--json")
    document = json.loads(again.stdout)
    assert document["student"] == str(folder / "student")
    assert [model["name"] for model in document["models"]] == ["teacher", "student"]
    assert "distill: reused" in again.stderr


def test_quiet_says_nothing_but_the_result(first, recipe):
    folder, _ = first
    again = kd("distill", recipe, "--output", folder, "--quiet")
    assert again.stderr == ""
    assert "accuracy" in again.stdout


@pytest.mark.parametrize("command", ["distill", "fine-tune-teacher"])
def test_a_dry_run_tells_its_plan_and_leaves_nothing(recipe, tmp_path, command):
    done = kd(command, recipe, "--output", tmp_path / "run", "--dry-run", "--json")
    stages = json.loads(done.stdout)["stages"]
    assert {stage["reason"] for stage in stages} == {"not done yet"}
    assert stages[0]["steps"] == 8
    assert not list(tmp_path.iterdir())


def test_a_dry_run_refuses_what_the_run_would(recipe, tmp_path, refuses):
    shutil.copytree(recipe.parent, tmp_path / "data")
    said = refuses("distill", recipe, "--set", f"data.dataset={tmp_path / 'data'}", "--dry-run",
                   "--output", tmp_path / "data/runs/tiny")  # fmt: skip
    assert "lies in that of the data" in said


def test_a_dry_run_names_what_a_change_would_redo(first, recipe):
    folder, _ = first
    change = ("--set", "distill.losses.0.temperature=4", "--set", "distill.epochs=2")
    plain = kd("distill", recipe, "--output", folder, "--dry-run")
    changed = kd("distill", recipe, "--output", folder, "--dry-run", *change)
    assert plain.stdout.count("reuse") == 8
    assert changed.stdout.count("reuse") == 3
    assert "distill.epochs was 1, is 2" in changed.stdout


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    # Called in the test: what is set in a fixture, pytest's capture sets back.
    def replace(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return replace


@pytest.mark.parametrize(("stream", "colour"), [(Terminal, True), (io.StringIO, False)])
def test_colour_is_for_terminals(stderr, stream, colour):
    written = stderr(stream())
    Console().print_error(DataError("It is wrong."))
    assert ("\x1b[" in written.getvalue()) == colour


# no-color.org: it counts where it is set and not empty.
@pytest.mark.parametrize(("value", "colour"), [("1", False), ("0", False), ("", True)])
def test_no_color_counts_where_it_says_something(stderr, monkeypatch, value, colour):
    written = stderr(Terminal())
    monkeypatch.setenv("NO_COLOR", value)
    Console().print_error(DataError("It is wrong."))
    assert ("\x1b[" in written.getvalue()) == colour


STEERING = {
    "\x1b[2J": r"\x1b[2J", "\x9b31m": r"\x9b31m", "\x07": r"\x07", "a\rb": r"a\rb", "a\nb": r"a\nb",
    "\u202egnp": r"\u202egnp", "a\u2028b": r"a\u2028b", "\udcff": r"\udcff",
    **{text: text for text in ("[bold]x[/bold]", ":boom: \\[x]", "می\u200cشود", "日本\u3000語")},
}  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), STEERING.items(), ids=ascii)
@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_text_from_outside_can_t_steer_the_terminal(stderr, monkeypatch, stream, text, shown):
    told, result = stderr(stream()), stream()
    monkeypatch.setattr(sys, "stdout", result)
    console = Console()
    console.print_error(DataError(f"{text}."))
    console.start("evaluate", text)
    console.advance(1, 2)
    console.info(text)
    console.finish("evaluate", "done", 1.0)
    console.print_table({}, text, ["", text], [[text, text]], text if "\n" not in text else "")
    assert told.getvalue().count(shown) >= 3
    assert result.getvalue().count(shown) >= 4
    if text != shown:
        assert text not in told.getvalue() + result.getvalue()


def test_a_dumb_terminal_gets_plain_lines(stderr, monkeypatch):
    written = stderr(Terminal())
    monkeypatch.setenv("TERM", "dumb")
    console = Console()
    console.start("distill", "train the student")
    console.epoch(1, 2, {"accuracy": 0.5}, 1.0)
    console.finish("distill", "done", 1.0)
    assert "\x1b" not in written.getvalue()
    assert written.getvalue().count("\n") == 4


def test_a_terminal_gets_a_live_line_that_ends_as_one_line(stderr):
    written = stderr(Terminal())
    console = Console()
    console.start("distill", "train the student")
    console.advance(1, 2, {"loss": 0.25, "accuracy": 0.5})
    console.info("A note.")
    console.finish("distill", "done", 61.0)
    assert "· A note." in written.getvalue()
    assert written.getvalue().endswith("✓ distill: done in 1 min 1 s, accuracy 50.00 %\n")


def test_a_note_is_said_once_and_not_at_all_when_quiet(capsys):
    console = Console()
    console.info("A note.")
    console.info("A note.")
    Console(quiet=True).info("Another.")
    assert capsys.readouterr().err == "A note.\n"


def test_plain_progress_tells_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr("kdcli.cli.console._SECONDS_BETWEEN_PROGRESS_LINES", 0.0)
    console = Console()
    console.start("distill", "train the student")
    console.advance(2, 4, {"loss": 0.25})
    console.finish("distill", "done", 3.0)
    begun, halfway, over = capsys.readouterr().err.splitlines()
    assert begun == "distill: train the student"
    assert halfway.startswith("distill: 2 of 4 (50 %), loss 0.2500, ")
    assert over == "distill: done in 3.0 s"


EPOCH = {"loss": 0.25, "validation loss": 0.5, "accuracy": 0.875}


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_each_epoch_is_a_row_below_one_header(stderr, stream):
    written = stderr(stream())
    console = Console()
    console.start("distill", "train the student")
    for epoch in (1, 2):
        console.epoch(epoch, 1000 * epoch, EPOCH, 12.4 * epoch)
    console.finish("distill", "done", 25.0)
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written.getvalue())
    lines = [line.split() for line in shown.splitlines()]
    row = ["0.2500", "0.5000", "87.50", "%"]
    assert lines.count(["epoch", "step", "loss", "validation", "loss", "accuracy", "seconds"]) == 1
    assert ["1", "1,000", *row, "12"] in lines
    assert ["2", "2,000", *row, "25"] in lines
    assert "done in 25 s, accuracy 87.50 %" in written.getvalue()


def test_a_run_counts_its_stages_and_tells_the_time_left(stderr, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("kdcli.cli.console.time.monotonic", lambda: clock[0])
    written = stderr(Terminal())
    console = Console()
    console.begin_run({"teacher": 30.0, "outputs": 10.0, "distill": 60.0, "card": 0.0})
    console.start("teacher", "fine-tune the teacher")
    clock[0] = 130.0
    console.finish("teacher", "done", 30.0)
    console.finish("outputs", "reused", 8.0)
    console.start("distill", "train the student")
    console.phase("train", 0.5)
    clock[0] = 170.0
    console.advance(1, 2)
    assert console._progress.tasks[0].completed == 0.75
    # 85 of 100 parts took 70 seconds.
    assert str(console._run) == "stage 3 of 4, 1 min 10 s so far, about 12 s left"
    console._progress.refresh()
    assert "stage 3 of 4" in written.getvalue()
    console.finish("distill", "done", 40.0)


def test_in_a_pipe_a_stage_says_its_number_and_no_bar_is_drawn(capsys):
    console = Console()
    console.begin_run({"teacher": 1.0, "card": 0.0})
    console.start("teacher", "fine-tune the teacher")
    console.phase("train", 0.5)
    console.finish("teacher", "done", 1.0)
    # A run within a run, or a repeated stage, isn't counted.
    console.start("teacher", "fine-tune the teacher")
    console.finish("teacher", "done", 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "teacher (1 of 2): fine-tune the teacher"
    assert lines[1] == "teacher: done in 1.0 s"
    assert lines[2] == "teacher: fine-tune the teacher"


def test_a_result_is_text_or_a_document(capsys):
    document = {"name": "ümlaut", "list": [1]}
    Console(quiet=True).print_result(document, "text")
    assert capsys.readouterr().out == "text\n"
    Console(json_output=True).print_table(document, "title", ["", "a"], [["row", "1"]], "after")
    assert json.loads(capsys.readouterr().out) == document


def test_figures_in_a_table_are_written_as_they_are(capsys):
    Console().print_table({}, "", ["", "[bold]x[/bold]"], [["accuracy", "93.1 %"]], "Next: [this]")
    shown = capsys.readouterr().out
    assert "93.1 %" in shown
    assert "Next: [this]" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.44, "0.4 s"), (12.3, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_read_as_people_say_them(seconds, said):
    assert format_duration(seconds) == said
