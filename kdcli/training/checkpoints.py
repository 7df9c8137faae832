"""Checkpoints that are complete or ignored.

The Trainer writes its checkpoints in place and resumes from any folder it finds. kd resumes only
from a checkpoint with a marker file, which lists the sizes of all its files and is written once
those are on the disk.
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from kdcli import distributed
from kdcli.pipeline.run_folder import CheckpointInterval
from kdcli.safe_files import fsync_tree, write_text_atomically
from kdcli.training.stop_signals import StopRequest

_COMPLETE_MARKER_FILE = "whole.json"
_CHECKPOINTS_TO_KEEP = 2


class CheckpointCallback(TrainerCallback):
    """Save checkpoints regularly and before a stop, mark them complete, and keep the last two.

    Args:
        interval: Steps or seconds between checkpoints.
        stop_request: Once set, one more checkpoint is saved, and training stops.
        extra_state: State that is saved beside each checkpoint, as JSON.
    """

    def __init__(
        self,
        interval: CheckpointInterval,
        stop_request: StopRequest,
        extra_state: Mapping[str, Any],
    ) -> None:
        self.interval, self.stop_request, self.extra_state = interval, stop_request, extra_state
        self.last_step, self.last_time = 0, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count from the first step, or from the checkpoint that training resumes from."""
        self.last_step, self.last_time = state.global_step, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Save if due, in the middle of an epoch."""
        # An epoch's last step is left to on_epoch_end: a run that resumes between the step and the
        # epoch's evaluation would never evaluate it.
        if _is_mid_epoch(args, state):
            self._save_if_due(state, control, model)

    def on_epoch_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Save if due after an epoch's evaluation; after a stop within an epoch, do nothing."""
        if _is_mid_epoch(args, state):
            control.should_log = control.should_evaluate = control.should_save = False
        elif state.global_step < state.max_steps:
            self._save_if_due(state, control, model)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint that the Trainer has written as complete, and delete old ones."""
        self.last_step, self.last_time = state.global_step, time.monotonic()
        # Each process writes a file of its own.
        distributed.barrier()
        if args.should_save:
            scratch = Path(args.output_dir)
            mark_checkpoint_complete(scratch / f"checkpoint-{state.global_step}", self.extra_state)
            delete_old_checkpoints(scratch, state.best_model_checkpoint)

    def _save_if_due(self, state: Any, control: Any, model: Any) -> None:
        steps, seconds = self.interval.steps, self.interval.seconds
        due = steps is not None and state.global_step - self.last_step >= steps
        due |= seconds is not None and time.monotonic() - self.last_time >= seconds
        # A signal reaches processes at different steps, and clocks differ: all follow any one.
        stop, some_due = distributed.all_reduce_max([self.stop_request.signal_number or 0, due])
        self.stop_request.signal_number = int(stop) or None
        control.should_save |= bool(some_due) or self.stop_request.stop_requested
        # Weights that aren't finite never replace a good checkpoint; the next loss ends the run.
        control.should_save = control.should_save and all(
            parameter.isfinite().all() for parameter in model.parameters()
        )
        control.should_training_stop |= self.stop_request.stop_requested


def _is_mid_epoch(args: Any, state: Any) -> bool:
    return bool(state.global_step % (state.max_steps // round(args.num_train_epochs)))


def mark_checkpoint_complete(checkpoint: Path, extra_state: Mapping[str, Any]) -> None:
    """Flush a checkpoint's files to the disk, and write its marker file."""
    (checkpoint / _COMPLETE_MARKER_FILE).unlink(missing_ok=True)
    fsync_tree(checkpoint)
    sizes = {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    write_text_atomically(
        checkpoint / _COMPLETE_MARKER_FILE, json.dumps({"sizes": sizes, "memory": extra_state})
    )


def recover_latest_checkpoint(checkpoints_folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest complete checkpoint and its extra state; incomplete ones are deleted."""
    for checkpoint in _checkpoints_newest_first(checkpoints_folder):
        marker = _read_complete_marker(checkpoint)
        if marker is not None:
            return checkpoint, marker["memory"]
        shutil.rmtree(checkpoint)
    return None


def delete_old_checkpoints(checkpoints_folder: Path, best_checkpoint: str | None) -> None:
    """Delete all checkpoints but the last two and the best, if there is one."""
    for checkpoint in _checkpoints_newest_first(checkpoints_folder)[_CHECKPOINTS_TO_KEEP:]:
        if str(checkpoint) != best_checkpoint:
            shutil.rmtree(checkpoint)


def _checkpoints_newest_first(checkpoints_folder: Path) -> list[Path]:
    folders = checkpoints_folder.glob("checkpoint-*")
    checkpoints = [path for path in folders if path.name[11:].isdigit()]
    return sorted(checkpoints, key=checkpoint_step, reverse=True)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step that a checkpoint was saved at."""
    return int(checkpoint.name[11:])


def _read_complete_marker(checkpoint: Path) -> dict[str, Any] | None:
    try:
        marker: dict[str, Any] = json.loads((checkpoint / _COMPLETE_MARKER_FILE).read_text())
        sizes = marker["sizes"].items()
        complete = all((checkpoint / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, KeyError):
        return None
    return marker if complete else None
