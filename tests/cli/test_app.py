"""The command line as a process: quick to answer, and what it prints."""

import json
import subprocess
import sys

import pytest
from forked import kd

HEAVY = ("torch", "transformers", "datasets", "huggingface_hub", "optuna")
COMMANDS = (
    [], ["distill"], ["init"], ["sweep"], ["fine-tune-teacher"], ["init-student"], ["evaluate"],
    ["export"], ["predict"], ["serve"], ["card"], ["data"], ["data", "check"],
    ["recipe"], *(["recipe", c] for c in ("list", "show", "copy", "new", "check", "schema")),
)  # fmt: skip


# An interpreter that has imported kd's command line forks for each command.
HELP = """
import json, os, sys
from kdcli.cli.app import main
folder, commands, heavy = sys.argv[1], *map(json.loads, sys.argv[2:])
for number, command in enumerate(commands):
    child = os.fork()
    if not child:
        for stream in (1, 2):
            os.dup2(os.open(f"{folder}/{number}.{stream}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = ["kd", *command, "--help"]
        try:
            main()
        finally:
            print("LOADED", [name for name in heavy if name in sys.modules])
        sys.exit()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, file=open(f"{folder}/{number}.code", "w"))
"""


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    """A folder with each command's exit code and what it printed."""
    folder = tmp_path_factory.mktemp("help")
    arguments = [str(folder), json.dumps(COMMANDS), json.dumps([*HEAVY, "pydantic"])]
    subprocess.run([sys.executable, "-c", HELP, *arguments], check=True)
    return folder


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=map(" ".join, COMMANDS))
def test_help_imports_nothing_heavy(helps, number):
    code, stdout, stderr = (
        (helps / f"{number}.{end}").read_text("utf-8") for end in ("code", "1", "2")
    )
    assert code == "0\n", stderr
    assert "Usage" in stdout
    # A flag takes no value.
    assert "<bool>" not in stdout
    # Typer itself loads pydantic for a command that has parameters.
    allowed = ("LOADED []", "LOADED ['pydantic']")[: 2 if COMMANDS[number] else 1]
    assert stdout.strip().endswith(allowed)


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


def test_without_a_command_kd_names_the_first_steps_on_half_a_screen():
    bare = kd()
    assert bare.returncode == 0
    assert "kd distill quickstart" in bare.stdout
    lines = bare.stdout.splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80
