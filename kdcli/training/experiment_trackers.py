"""Training seen live: TensorBoard's files in the run's folder, and what else the user names."""

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
_LOGS_PER_EPOCH = 20  # how often the loss is shown while it lasts


def check_trackers_installed(tracker_names: Sequence[str]) -> None:
    """Refuse trackers that can't be used, before anything is trained.

    Raises:
        RecipeError: There is no such tracker, or it isn't installed.
    """
    for name in tracker_names:
        if name not in known.INTEGRATION_TO_CALLBACK:
            raise RecipeError(
                f"report_to: there is no tracker {name!r}.",
                f"Known: {', '.join(sorted(known.INTEGRATION_TO_CALLBACK))}.",
            )
        # transformers can't tell of this one before it is used.
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
    """The callbacks that tell trackers of a fit.

    Args:
        tracker_names: As transformers calls the trackers.
        tensorboard_folder: For TensorBoard's files, of this fit alone.
        checkpoint: What the fit goes on from, where it doesn't begin.
        loss_sums: The sums of the loss's terms since the last log, and over how many rows.
    """
    trackers: list[TrainerCallback] = []
    for name in tracker_names:
        if name != TENSORBOARD:
            trackers.append(known.INTEGRATION_TO_CALLBACK[name]())
        elif distributed.is_main_process():  # the others ask who is first themselves
            trackers.append(_tensorboard_callback(tensorboard_folder, checkpoint))
    return [*trackers, _MidEpochLossLogger(trackers, loss_sums)] if trackers else []


def _tensorboard_callback(tensorboard_folder: Path, checkpoint: Path | None) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter

    if checkpoint is None:
        shutil.rmtree(tensorboard_folder, ignore_errors=True)
        return known.TensorBoardCallback(SummaryWriter(str(tensorboard_folder)))
    # What a killed run has shown of steps that are now taken again is struck out.
    purge = checkpoint_step(checkpoint) + 1
    return known.TensorBoardCallback(SummaryWriter(str(tensorboard_folder), purge_step=purge))


class _MidEpochLossLogger(TrainerCallback):
    """Shows the loss and its terms while an epoch lasts: the mean since it was last shown."""

    def __init__(self, trackers: Sequence[TrainerCallback], loss_sums: Mapping[str, Any]) -> None:
        self.trackers, self.loss_sums = trackers, loss_sums

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The sums begin anew, or go on from a checkpoint's."""
        self._remember_sums()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """A step is taken."""
        an_epoch = state.max_steps // round(args.num_train_epochs)
        if state.global_step % max(1, an_epoch // _LOGS_PER_EPOCH):
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
