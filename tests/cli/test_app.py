"""The command line as a process: quick to answer, and what it prints."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "datasets", "huggingface_hub", "optuna")
COMMANDS = (
    [], ["distill"], ["sweep"], ["fine-tune-teacher"], ["init-student"], ["evaluate"], ["card"],
    ["data"], ["data", "check"],
    ["recipe"], *(["recipe", c] for c in ("list", "show", "copy", "new", "check", "schema")),
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
