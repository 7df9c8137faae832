"""Checkpoints that are whole or absent, and the wish to stop.

The Trainer writes its checkpoints in place and takes whatever folder it finds. Here a checkpoint
counts once it is sealed: all its files are on the disk, and a list of their sizes beside them.
"""

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from kdcli import distributed
from kdcli.errors import RunInterruptedError
from kdcli.pipeline.run_folder import CheckpointInterval
from kdcli.safe_files import fsync_tree, write_text_atomically

_COMPLETE_MARKER_FILE = "whole.json"
_CHECKPOINTS_TO_KEEP = 2
# Who asks a process to end mostly kills it after half a minute.
_STOP_TIMEOUT_SECONDS = 25


class StopRequest:
    """Whether someone asked the process to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @property
    def stop_requested(self) -> bool:
        """Whether it is time to write a checkpoint and go."""
        return self.signal_number is not None


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Within the block the first Ctrl-C or SIGTERM is noted, and the second acts as ever.

    Raises:
        StoppedError: A step that takes long left no time for a checkpoint.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: Any) -> None:
        request.signal_number = number
        restore()
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(_STOP_TIMEOUT_SECONDS)

    def give_up(number: int, frame: Any) -> None:
        raise RunInterruptedError(
            f"Stopped: no checkpoint could be written within {_STOP_TIMEOUT_SECONDS} s; the last one stands.",
            "Run the same command again to go on from there.",
            request.signal_number or signal.SIGINT,
        )

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        signal.alarm(0)
        restore()


def stopped_at_step_error(
    stop_request: StopRequest, step: int, total_steps: int
) -> RunInterruptedError:
    """The error that says where a run was stopped, with the exit code of its signal."""
    return RunInterruptedError(
        f"Stopped at step {step:,} of {total_steps:,}; a checkpoint is written.",
        "Run the same command again to go on from there.",
        stop_request.signal_number or signal.SIGINT,
    )


class CheckpointCallback(TrainerCallback):
    """Has checkpoints written in time, seals them, and keeps the last two.

    Args:
        interval: How often.
        stop_request: Asks for one more, and then for the end.
        extra_state: What else has to come back with a checkpoint, as JSON can hold it.
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
        """Count from where the training begins, which may be a checkpoint."""
        self.last_step, self.last_time = state.global_step, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """In the middle of an epoch."""
        # An epoch's last step is left to on_epoch_end: a checkpoint between the step and the
        # epoch's evaluation would go on without ever evaluating it.
        if _is_mid_epoch(args, state):
            self._save_if_due(state, control, model)

    def on_epoch_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """After an epoch, once it is evaluated; also after a stop in the middle of one."""
        if _is_mid_epoch(args, state):
            control.should_log = control.should_evaluate = control.should_save = False
        elif state.global_step < state.max_steps:
            self._save_if_due(state, control, model)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The Trainer has written a checkpoint."""
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
        # A signal reaches processes at different steps, and clocks differ: what one wants, all do.
        stop, some_due = distributed.all_reduce_max([self.stop_request.signal_number or 0, due])
        self.stop_request.signal_number = int(stop) or None
        control.should_save |= bool(some_due) or self.stop_request.stop_requested
        # The next step's loss will tell of it; until then the last good checkpoint is to stay.
        control.should_save = control.should_save and all(
            parameter.isfinite().all() for parameter in model.parameters()
        )
        control.should_training_stop |= self.stop_request.stop_requested


def _is_mid_epoch(args: Any, state: Any) -> bool:
    return bool(state.global_step % (state.max_steps // round(args.num_train_epochs)))


def mark_checkpoint_complete(checkpoint: Path, extra_state: Mapping[str, Any]) -> None:
    """Bring a checkpoint's files to the disk, and say that it is whole."""
    (checkpoint / _COMPLETE_MARKER_FILE).unlink(missing_ok=True)
    fsync_tree(checkpoint)
    sizes = {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    write_text_atomically(
        checkpoint / _COMPLETE_MARKER_FILE, json.dumps({"sizes": sizes, "memory": extra_state})
    )


def find_latest_checkpoint(checkpoints_folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint and its memory; those that aren't whole are removed."""
    for checkpoint in _checkpoints_newest_first(checkpoints_folder):
        found = _read_complete_marker(checkpoint)
        if found is not None:
            return checkpoint, found["memory"]
        shutil.rmtree(checkpoint)
    return None


def delete_old_checkpoints(checkpoints_folder: Path, best_checkpoint: str | None) -> None:
    """Remove all checkpoints but the last two, and the best where one is to be kept."""
    for checkpoint in _checkpoints_newest_first(checkpoints_folder)[_CHECKPOINTS_TO_KEEP:]:
        if str(checkpoint) != best_checkpoint:
            shutil.rmtree(checkpoint)


def _checkpoints_newest_first(checkpoints_folder: Path) -> list[Path]:
    """The checkpoints, newest first."""
    found = [path for path in checkpoints_folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    return sorted(found, key=checkpoint_step, reverse=True)


def checkpoint_step(checkpoint: Path) -> int:
    """The step that a checkpoint was written at."""
    return int(checkpoint.name[11:])


def _read_complete_marker(checkpoint: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((checkpoint / _COMPLETE_MARKER_FILE).read_text())
        sizes = found["sizes"].items()
        whole = all((checkpoint / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, KeyError):
        return None
    return found if whole else None
