"""Experiment trackers: TensorBoard in the run's folder, and any other that transformers knows."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import integration_utils as known

from kdcli import distributed
from kdcli.errors import RecipeError
from kdcli.training.checkpoints import checkpoint_step

TENSORBOARD = "tensorboard"
_LOGS_PER_EPOCH = 20


def check_trackers_installed(tracker_names: Sequence[str]) -> None:
    """Check that each tracker exists and is installed.

    Raises:
        RecipeError: One doesn't exist, or isn't installed.
    """
    for name in tracker_names:
        if name not in known.INTEGRATION_TO_CALLBACK:
            raise RecipeError(
                f"report_to: there is no tracker {name!r}.",
                f"Known: {', '.join(sorted(known.INTEGRATION_TO_CALLBACK))}.",
            )
        # transformers can't tell whether flyte is installed.
        if name != "flyte" and name not in known.get_available_reporting_integrations():
            raise RecipeError(
                f"report_to: the tracker {name} is not installed here.",
                "Install it, or take it out of the list.",
            )


def create_tracker_callbacks(
    tracker_names: Sequence[str],
    tensorboard_folder: Path,
    checkpoint: Path | None,
    loss_sums: Mapping[str, Any],
) -> list[TrainerCallback]:
    """Create the callbacks that log a training to trackers.

    Args:
        tracker_names: The trackers, by transformers' names.
        tensorboard_folder: A folder for TensorBoard's files of this training alone.
        checkpoint: The checkpoint that training resumes from, if any.
        loss_sums: `sums` of each loss since the last log, over `rows`; the trainer updates it.
    """
    trackers: list[TrainerCallback] = []
    for name in tracker_names:
        if name != TENSORBOARD:
            trackers.append(known.INTEGRATION_TO_CALLBACK[name]())
        elif distributed.is_main_process():  # the other trackers check this themselves
            trackers.append(_tensorboard_callback(tensorboard_folder, checkpoint))
    return [*trackers, _MidEpochLossLogger(trackers, loss_sums)] if trackers else []


def _tensorboard_callback(tensorboard_folder: Path, checkpoint: Path | None) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter

    if checkpoint is None:
        shutil.rmtree(tensorboard_folder, ignore_errors=True)
        return known.TensorBoardCallback(SummaryWriter(str(tensorboard_folder)))
    # Steps after the checkpoint are taken again: what a killed run logged of them is purged.
    purge = checkpoint_step(checkpoint) + 1
    return known.TensorBoardCallback(SummaryWriter(str(tensorboard_folder), purge_step=purge))


class _MidEpochLossLogger(TrainerCallback):
    """Log the loss and its terms within an epoch, each as a mean since the last log."""

    def __init__(self, trackers: Sequence[TrainerCallback], loss_sums: Mapping[str, Any]) -> None:
        self.trackers, self.loss_sums = trackers, loss_sums

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin at the current sums: 0, or those of a checkpoint."""
        self._remember_sums()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Log every twentieth of an epoch."""
        steps_per_epoch = state.max_steps // round(args.num_train_epochs)
        if state.global_step % max(1, steps_per_epoch // _LOGS_PER_EPOCH):
            return
        rows = self.loss_sums["rows"] - self.last_logged["rows"]
        terms = {
            f"step_loss/{name}": (value - self.last_logged["sums"].get(name, 0.0)) / rows
            for name, value in self.loss_sums["sums"].items()
        }
        self._remember_sums()
        for tracker in self.trackers:
            logs = {"step_loss": sum(terms.values()), **terms}
            tracker.on_log(args, state, control, logs=logs, **more)

    def _remember_sums(self) -> None:
        self.last_logged = {"sums": dict(self.loss_sums["sums"]), "rows": self.loss_sums["rows"]}
