"""The command line: quick to answer, plain in a pipe, one document as JSON."""

import io
import json
import subprocess
import sys

import pytest

from kdcli.cli.console import Console, duration
from kdcli.errors import DataError

HEAVY = ("torch", "transformers", "datasets", "huggingface_hub")
COMMANDS = (
    [], ["distill"], ["fine-tune-teacher"], ["init-student"], ["evaluate"], ["card"],
    ["recipe"], ["recipe", "list"],
)  # fmt: skip


def kd(*arguments):
    command = [sys.executable, "-m", "kdcli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_imports_nothing_heavy(command):
    # Typer itself loads pydantic for a command that has parameters.
    heavy = HEAVY if command else (*HEAVY, "pydantic")
    code = (
        "import sys\n"
        f"sys.argv = ['kd', *{command!r}, '--help']\n"
        "from kdcli.cli.app import main\n"
        "try:\n    main()\n"
        f"finally:\n    print('LOADED', [m for m in {heavy!r} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert done.stdout.strip().endswith("LOADED []")


def test_the_shipped_recipes_are_listed_shown_and_checked():
    listed = json.loads(kd("recipe", "list", "--json").stdout)
    assert {"clinc_plus", "quickstart"} <= {row["name"] for row in listed}
    assert all(row["about"] for row in listed)
    shown = json.loads(kd("recipe", "show", "clinc_plus", "--json").stdout)
    assert shown["distill"]["max_grad_norm"] == 1.0
    assert json.loads(kd("recipe", "schema").stdout)["additionalProperties"] is False
    assert kd("recipe", "check", "clinc_plus").returncode == 0


def test_an_error_is_a_sentence_or_a_document():
    plain = kd("recipe", "check", "nothing")
    assert plain.returncode == 2
    assert plain.stdout == ""
    assert plain.stderr.startswith("Error: There is no recipe nothing")
    assert plain.stderr.count("\n") == 1
    document = json.loads(kd("recipe", "check", "nothing", "--json").stdout)
    assert document["error"]["exit_code"] == 2


def test_the_version_is_told():
    assert kd("--version").stdout.startswith("kd ")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "escapes"), [(Terminal, True), (io.StringIO, False)])
def test_colour_is_for_terminals(monkeypatch, stream, escapes):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    Console().error(DataError("It is wrong."))
    assert ("\x1b" in sys.stderr.getvalue()) == escapes


def test_no_color_is_obeyed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    Console().error(DataError("It is wrong."))
    assert "\x1b" not in sys.stderr.getvalue()


def test_text_from_outside_can_t_steer_the_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    Console().error(DataError("label \x1b[2J[bold]x[/bold]"))
    assert "\x1b[2J" not in sys.stderr.getvalue()
    assert "[bold]x[/bold]" in sys.stderr.getvalue()


def test_a_note_is_said_once_and_not_at_all_when_quiet(capsys):
    console = Console()
    console.say("A note.")
    console.say("A note.")
    Console(quiet=True).say("Another.")
    assert capsys.readouterr().err == "A note.\n"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.44, "0.4 s"), (12.3, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_read_as_people_say_them(seconds, said):
    assert duration(seconds) == said
