"""TensorBoard shows every term of the loss, once, also of a run that was killed."""

import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.errors import RecipeError
from kdcli.losses import CrossEntropy, SoftTargets
from kdcli.losses.combined import CombinedLoss
from kdcli.models import model_io
from kdcli.pipeline.run_folder import CheckpointInterval
from kdcli.progress import SilentReporter
from kdcli.recipe.training import TrainingConfig
from kdcli.training import experiment_trackers
from kdcli.training import train as training

TERMS = [SoftTargets(weight=0.5), CrossEntropy(weight=0.5)]
STEPS = 6


class Killed(Exception):
    """The process is gone."""


class Breaks(SilentReporter):
    def __init__(self, at=None):
        self.at = at

    def advance(self, step, steps, figures=None):
        if step == self.at:
            raise Killed


@pytest.fixture
def fit(tiny_teacher, tokenizer, help_desk, labels, tmp_path):
    rows = help_desk["train"].select(range(48))
    ids = [labels.index(name) for name in rows["intent"]]
    told = [[float(i == j) for j in range(len(labels))] for i in ids]
    encoded = tokenize_dataset(rows.select_columns("text"), tokenizer, 32)
    encoded = encoded.add_column("labels", ids).add_column("teacher_logits", told)

    def run(reporter=None, epochs=2, report_to=("tensorboard",)):
        return training.train_model(
            model_io.load_classifier(tiny_teacher), tokenizer,
            {"train": encoded, "validation": encoded},
            TrainingConfig(epochs=epochs, batch_size=16, learning_rate=1e-3),
            CombinedLoss(TERMS),
            run=training.TrainingContext(
                0, tmp_path / "scratch", tmp_path / "logs/distill.jsonl",
                reporter or SilentReporter(), CheckpointInterval(steps=1), report_to,
            ),
        )  # fmt: skip

    return run


def shown(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_every_term_is_shown_of_training_and_validation(fit, tmp_path):
    history = fit()
    found = shown(tmp_path / "logs/distill")
    for side, row in (("train", "training_terms"), ("eval", "validation_terms")):
        for term in ("soft_targets", "cross_entropy"):
            means = [value for _, value in found[f"{side}/loss/{term}"]]
            assert means == pytest.approx([getattr(epoch, row)[term] for epoch in history])
    assert [value for _, value in found["eval/accuracy"]] == pytest.approx(
        [epoch.validation_metrics["accuracy"] for epoch in history]
    )


def test_within_an_epoch_the_steps_add_up_to_its_mean(fit, tmp_path):
    history = fit()
    steps = shown(tmp_path / "logs/distill")["train/step_loss/soft_targets"]
    assert [step for step, _ in steps] == list(range(1, STEPS + 1))
    first = [value for _, value in steps[:3]]
    assert sum(first) / 3 == pytest.approx(history[0].training_terms["soft_targets"])


def test_after_a_kill_each_step_is_shown_once(fit, tmp_path):
    with pytest.raises(Killed):
        fit(Breaks(at=5))
    fit()
    steps = shown(tmp_path / "logs/distill")["train/step_loss"]
    assert [step for step, _ in steps] == list(range(1, STEPS + 1))


def test_another_fit_s_figures_don_t_stay(fit, tmp_path):
    fit(epochs=2)
    shutil.rmtree(tmp_path / "scratch")
    fit(epochs=1)
    assert len(shown(tmp_path / "logs/distill")["eval/loss"]) == 1


def test_nothing_is_shown_where_that_is_asked(fit, tmp_path):
    fit(report_to=())
    assert not (tmp_path / "logs/distill").exists()


@pytest.mark.parametrize(("name", "said"), [("tensorbord", "no tracker"), ("wandb", "installed")])
def test_a_tracker_that_can_t_be_used_is_one_sentence(name, said):
    with pytest.raises(RecipeError, match=said) as caught:
        experiment_trackers.check_trackers_installed(["tensorboard", name])
    assert caught.value.exit_code == 2
    assert name in caught.value.message
