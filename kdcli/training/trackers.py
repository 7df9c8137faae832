"""Training seen live: TensorBoard's files in the run's folder, and what else the user names."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import integration_utils as known

from kdcli import processes
from kdcli.errors import RecipeError
from kdcli.training.checkpoints import step_of

TENSORBOARD = "tensorboard"
_AN_EPOCH = 20  # how often the loss is shown while it lasts


def check(names: Sequence[str]) -> None:
    """Refuse trackers that can't be used, before anything is trained.

    Raises:
        RecipeError: There is no such tracker, or it isn't installed.
    """
    for name in names:
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


def start(
    names: Sequence[str], folder: Path, checkpoint: Path | None, memory: Mapping[str, Any]
) -> list[TrainerCallback]:
    """The callbacks that tell trackers of a fit.

    Args:
        names: As transformers calls the trackers.
        folder: For TensorBoard's files, of this fit alone.
        checkpoint: What the fit goes on from, where it doesn't begin.
        memory: The sums of the loss's terms since the last log, and over how many rows.
    """
    trackers: list[TrainerCallback] = []
    for name in names:
        if name != TENSORBOARD:
            trackers.append(known.INTEGRATION_TO_CALLBACK[name]())
        elif processes.is_first():  # the others ask who is first themselves
            trackers.append(_tensorboard(folder, checkpoint))
    return [*trackers, _Within(trackers, memory)] if trackers else []


def _tensorboard(folder: Path, checkpoint: Path | None) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter

    if checkpoint is None:
        shutil.rmtree(folder, ignore_errors=True)
        return known.TensorBoardCallback(SummaryWriter(str(folder)))
    # What a killed run has shown of steps that are now taken again is struck out.
    purge = step_of(checkpoint) + 1
    return known.TensorBoardCallback(SummaryWriter(str(folder), purge_step=purge))


class _Within(TrainerCallback):
    """Shows the loss and its terms while an epoch lasts: the mean since it was last shown."""

    def __init__(self, trackers: Sequence[TrainerCallback], memory: Mapping[str, Any]) -> None:
        self.trackers, self.memory = trackers, memory

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The sums begin anew, or go on from a checkpoint's."""
        self._note()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """A step is taken."""
        an_epoch = state.max_steps // round(args.num_train_epochs)
        if state.global_step % max(1, an_epoch // _AN_EPOCH):
            return
        rows = self.memory["rows"] - self.before["rows"]
        terms = {
            f"step_loss/{name}": (value - self.before["sums"].get(name, 0.0)) / rows
            for name, value in self.memory["sums"].items()
        }
        self._note()
        for tracker in self.trackers:
            logs = {"step_loss": sum(terms.values()), **terms}
            tracker.on_log(args, state, control, logs=logs, **more)

    def _note(self) -> None:
        self.before = {"sums": dict(self.memory["sums"]), "rows": self.memory["rows"]}
