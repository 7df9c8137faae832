"""Two processes at one run: what they make, what they say, and how they end."""

import json
import os
import re
import socket
import time
from pathlib import Path

import forked
import numpy as np
import pytest
import yaml
from datasets import load_from_disk
from transformers import BertForSequenceClassification

FIT = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
ALONE = ["-m", "kdcli"]
# A free port: other tests on this machine may launch as well.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0"]
TWO = [*LAUNCH, "--num_processes", "2", "-m", "kdcli"]


@pytest.fixture(scope="module")
def recipe(tiny_teacher, tokenizer, small_data, tmp_path_factory):
    """With a teacher that has no dropout: its random numbers are each process's own."""
    folder = tmp_path_factory.mktemp("two")
    model = BertForSequenceClassification.from_pretrained(
        tiny_teacher, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    content = {
        "name": "two",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(folder / "model"), "fine_tune": FIT},
        "student": {"keep_layers": [0, 3]},
        "distill": FIT,
        "evaluate": {"latency_texts": 3, "baselines": []},
    }
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(launcher, recipe, folder: Path, *flags):
    return forked.start(*launcher, "distill", recipe, "--output", folder, *flags)


def start_two(recipe, folder: Path, *flags):
    """Start both ranks as a launcher does, without its two new interpreters."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    arguments = ("-m", "kdcli", "distill", recipe, "--output", folder, *flags)
    return [
        forked.start(
            *arguments,
            env=os.environ
            | address
            | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]


def errors_of(processes) -> str:
    """What they wrote until both ended, none of them well."""
    errors = [process.communicate()[1] for process in processes]
    assert all(process.returncode for process in processes), errors
    return "".join(errors)


def records(folder):
    return json.loads((folder / "run.json").read_text())["stages"]


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """The same recipe by one process and by two, each in a folder that the other doesn't see."""
    found = {}
    for name, launcher in (("alone", ALONE), ("two", TWO)):
        folder = tmp_path_factory.mktemp(name) / "run"
        process = start(launcher, recipe, folder)
        out, err = process.communicate()
        assert process.returncode == 0, err
        found[name] = (folder, out, err)
    return found


def test_two_processes_follow_the_loss_curve_of_one(finished):
    (alone, *_), (two, *_) = finished.values()
    for stage in ("teacher", "distill"):
        curves = [records(folder)[stage]["result"]["history"] for folder in (alone, two)]
        # 120 texts: the last batch of 16 holds 8, and each process has 4 of them.
        assert [row["step"] for row in curves[0]] == [row["step"] for row in curves[1]] == [8, 16]
        for one, other in zip(*curves, strict=True):
            for figure in ("training_loss", "validation_loss"):
                assert other[figure] == pytest.approx(one[figure], abs=1e-4), figure
            assert other["training_terms"] == pytest.approx(one["training_terms"], abs=1e-4)


def test_shared_out_the_teacher_tells_the_same(finished):
    for split in ("train", "validation"):
        outputs = [
            np.asarray(load_from_disk(folder / "teacher-outputs")[split]["teacher_logits"])
            for folder, *_ in finished.values()
        ]
        assert np.abs(outputs[0] - outputs[1]).max() < 1e-3


def test_only_one_of_them_writes_and_speaks(finished):
    folder, out, err = finished["two"]
    assert len(re.findall(r"^distill .*: train the student", err, re.MULTILINE)) == 1
    assert out.count("Next: kd card") == 1
    lines = (folder / "logs/distill.jsonl").read_text().splitlines()
    assert sum("eval_loss" in line for line in lines) == FIT["epochs"]
    assert not list(folder.rglob("checkpoint-*"))


def test_a_mistake_is_told_once(recipe, tmp_path):
    err = errors_of(start_two(recipe, tmp_path / "run", "--set", "data.label=nothing"))
    assert err.count("there is no column nothing") == 1
    assert not (tmp_path / "run" / "teacher").exists()


LONG = ["--set", "teacher.fine_tune.epochs=500", "--checkpoint-every", "20"]


@pytest.fixture
def training(recipe, tmp_path):
    """Two processes in the middle of a fit, with a checkpoint behind them."""
    processes = start_two(recipe, tmp_path / "run", *LONG)
    while not list(tmp_path.glob("run/.work/teacher/*/checkpoint-*/whole.json")):
        assert processes[0].poll() is None, processes[0].communicate()[1]
        time.sleep(0.05)
    yield processes
    for process in processes:
        process.kill()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_ends_all_and_one_alone_can_go_on(training, recipe, tmp_path, rank):
    training[rank].kill()
    err = errors_of(training)
    assert "Another of the 2 processes of this run has ended. Run the same command again" in err
    assert "a bug" not in err
    # From the checkpoint of two, one process goes on; the run is then as long as it was to be.
    process = start(ALONE, recipe, tmp_path / "run", *LONG)
    line = ""
    while "Resuming" not in line:
        line = process.stderr.readline()
        assert line, "it began anew"
    process.terminate()
    process.communicate()


def test_asked_to_stop_they_agree_on_a_step(training, tmp_path):
    for process in training:
        process.terminate()
    err = errors_of(training)
    assert err.count("Stopped at step") == 1
    step = int(err.partition("Stopped at step ")[2].split()[0].replace(",", ""))
    (checkpoint,) = tmp_path.glob(f"run/.work/teacher/*/checkpoint-{step}")
    assert {f"rng_state_{rank}.pth" for rank in (0, 1)} <= {p.name for p in checkpoint.iterdir()}
    assert (checkpoint / "whole.json").exists()
