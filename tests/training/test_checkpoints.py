"""Broken off at any step, a fit goes on to the same bits and the same table."""

import os
import signal
import time

import pytest
import torch
from helpers import Listener

from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.data.labels.label_matching import map_labels_to_model
from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.errors import ResourceError, RunInterruptedError, UserError
from kdcli.losses import CrossEntropy, LinearRamp
from kdcli.losses.base import LayerMapping
from kdcli.losses.combined import CombinedLoss
from kdcli.losses.hidden_states import HiddenMSE
from kdcli.models import model_io
from kdcli.pipeline.run_folder import CheckpointInterval
from kdcli.progress import SilentReporter
from kdcli.recipe.data import DataConfig
from kdcli.recipe.training import TrainingConfig
from kdcli.training import stop_signals
from kdcli.training import train as training

STEPS_AN_EPOCH = 8  # 120 texts in batches of 16
SPEC = TrainingConfig(epochs=3, batch_size=16, learning_rate=1e-3)


class Killed(Exception):
    """Stands for a process that is gone between two instructions."""


class Breaks(Listener):
    """Acts when a step is reached."""

    def __init__(self, step, act):
        super().__init__()
        self.step, self.act = step, act

    def advance(self, done, total, figures=None):
        if done == self.step and figures is None:
            self.act()


def kill():
    raise Killed


@pytest.fixture(scope="module")
def rows(small_data, tiny_teacher):
    corpus = load_dataset_splits(DataConfig(dataset=str(small_data), label="intent"), 0)
    tokenizer = model_io.load_tokenizer(tiny_teacher)
    found = {s: tokenize_dataset(corpus.splits[s], tokenizer, 64) for s in ("train", "validation")}
    return {s: map_labels_to_model(r, corpus, corpus.label_names) for s, r in found.items()}


@pytest.fixture
def fit(tiny_teacher, rows, tmp_path):
    def run(
        reporter=None,
        scratch="scratch",
        every=CheckpointInterval(steps=3),
        objective=None,
        **changes,
    ):
        (tmp_path / scratch).mkdir(exist_ok=True)
        model = model_io.load_classifier(tiny_teacher)
        history = training.train_model(
            model,
            model_io.load_tokenizer(tiny_teacher),
            rows,
            SPEC.model_copy(update=changes),
            objective or CombinedLoss([CrossEntropy()]),
            run=training.TrainingContext(
                seed=1,
                checkpoints_folder=tmp_path / scratch,
                log_file=tmp_path / scratch / "log.jsonl",
                reporter=reporter or SilentReporter(),
                checkpoint_interval=every,
            ),
            teacher=objective and model_io.load_classifier(tiny_teacher),
        )
        return model.state_dict(), history

    return run


def assert_same(one, other):
    assert one[1] == other[1]
    for name, tensor in one[0].items():
        assert torch.equal(tensor, other[0][name]), name


@pytest.mark.parametrize("step", [1, 2, 5, 8, 9, 16, 17, 23])
def test_killed_at_a_step_it_ends_as_if_it_had_not_been(fit, step):
    whole = fit(scratch="whole")
    with pytest.raises(Killed):
        fit(Breaks(step, kill))
    listener = Breaks(0, kill)
    assert_same(fit(listener), whole)
    assert bool(listener.said) == (step > 3), "it goes on rather than begin again"


def test_killed_again_and_again(fit):
    whole = fit(scratch="whole")
    for step in (4, 7, 11, 20):
        with pytest.raises(Killed):
            fit(Breaks(step, kill))
    assert_same(fit(), whole)


@pytest.mark.parametrize("accumulation", [2])
def test_in_the_middle_of_accumulated_batches_too(fit, accumulation):
    changes = {"gradient_accumulation_steps": accumulation, "batch_size": 8}
    whole = fit(scratch="whole", **changes)
    with pytest.raises(Killed):
        fit(Breaks(13, kill), **changes)
    assert_same(fit(**changes), whole)


def test_what_a_loss_learns_for_itself_goes_on_as_well(fit):
    def changes():
        torch.manual_seed(0)
        # Of another width on paper only: the states are projected, and the projections learn.
        terms = [
            HiddenMSE(weight=LinearRamp(start=1, end=0.1)),
            CrossEntropy(),
        ]
        objective = CombinedLoss(terms, LayerMapping(32, 32, (0, 1, 2, 3), 4))
        for layer in range(4):
            objective.projections[f"hidden_mse-{layer}"] = torch.nn.Linear(32, 32)
        return objective

    first, second = changes(), changes()
    whole = fit(scratch="whole", objective=first)
    with pytest.raises(Killed):
        fit(Breaks(13, kill), objective=changes())
    assert_same(fit(objective=second), whole)
    assert not any("projections" in name for name in whole[0])
    learnt, again, before = (o.parameters() for o in (first, second, changes()))
    for one, other, untrained in zip(learnt, again, before, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, untrained)


def test_the_best_epoch_survives_a_kill(fit):
    whole = fit(scratch="whole", keep_checkpoint="best")
    with pytest.raises(Killed):
        fit(Breaks(20, kill), keep_checkpoint="best")
    assert_same(fit(keep_checkpoint="best"), whole)


@pytest.mark.parametrize("step", [5, STEPS_AN_EPOCH])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_writes_a_checkpoint_first(fit, step, number, code):
    whole = fit(scratch="whole")
    with pytest.raises(RunInterruptedError, match=f"at step {step} of 24") as raised:
        fit(
            Breaks(step, lambda: os.kill(os.getpid(), number)), every=CheckpointInterval(None, None)
        )
    assert raised.value.exit_code == code
    listener = Breaks(0, kill)
    assert_same(fit(listener), whole)
    assert listener.said == [f"Resuming from checkpoint at step {step}."]


def test_a_step_that_takes_too_long_is_not_waited_for(fit, monkeypatch, tmp_path):
    monkeypatch.setattr(stop_signals, "_STOP_TIMEOUT_SECONDS", 1)

    def stop_and_hang():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)

    whole = fit(scratch="whole")
    with pytest.raises(RunInterruptedError, match="1 s") as raised:
        fit(Breaks(7, stop_and_hang))
    assert raised.value.exit_code == 143
    assert signal.alarm(0) == 0, "it would still ring"
    assert (tmp_path / "scratch/checkpoint-6").is_dir()
    assert_same(fit(), whole)


def test_weights_that_are_no_numbers_push_no_good_checkpoint_out(fit, monkeypatch, tmp_path):
    models, load_classifier = [], model_io.load_classifier

    def remembered(folder):
        models.append(load_classifier(folder))
        return models[-1]

    def spoil():
        models[-1].classifier.bias.data.fill_(float("nan"))

    monkeypatch.setattr(model_io, "load_classifier", remembered)
    with pytest.raises(UserError, match="loss is nan at step 6"):
        fit(Breaks(5, spoil), every=CheckpointInterval(steps=1))
    left = {path.name for path in (tmp_path / "scratch").glob("checkpoint-*")}
    assert left == {"checkpoint-3", "checkpoint-4"}


def test_a_checkpoint_that_isn_t_whole_is_passed_over(fit, tmp_path):
    whole = fit(scratch="whole")
    with pytest.raises(Killed):
        fit(Breaks(14, kill))
    newest = tmp_path / "scratch/checkpoint-12/optimizer.pt"
    newest.write_bytes(newest.read_bytes()[:-10])
    assert_same(fit(), whole)


def test_the_last_two_are_kept(fit, tmp_path):
    with pytest.raises(Killed):
        fit(Breaks(23, kill))
    left = {path.name for path in (tmp_path / "scratch").glob("checkpoint-*")}
    assert left == {"checkpoint-18", "checkpoint-21"}


def test_time_is_a_cadence_too(fit, tmp_path):
    with pytest.raises(Killed):
        fit(Breaks(3, kill), every=CheckpointInterval(seconds=1e-9))
    assert (tmp_path / "scratch/checkpoint-2/whole.json").is_file()


def test_a_disk_without_room_is_said_before_the_first_step(fit, monkeypatch):
    room = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: room)
    with pytest.raises(ResourceError, match="has room for 0 MB, and training needs up to"):
        fit(Breaks(1, kill))


@pytest.mark.parametrize("step", [11, 17, 22])
def test_averaged_weights_go_on_as_well(fit, step):
    whole = fit(scratch="whole", weight_averaging_ratio=0.5)
    with pytest.raises(Killed):
        fit(Breaks(step, kill), weight_averaging_ratio=0.5)
    assert_same(fit(weight_averaging_ratio=0.5), whole)
