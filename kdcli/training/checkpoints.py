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

from kdcli import processes
from kdcli.errors import StoppedError
from kdcli.run import Cadence
from kdcli.safe_files import bring_to_disk, write_whole

_SEAL = "whole.json"
_KEPT = 2
# Who asks a process to end mostly kills it after half a minute.
_PATIENCE = 25


class StopRequest:
    """Whether someone asked the process to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def asked(self) -> bool:
        """Whether it is time to write a checkpoint and go."""
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block the first Ctrl-C or SIGTERM is noted, and the second acts as ever.

    Raises:
        StoppedError: A step that takes long left no time for a checkpoint.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: Any) -> None:
        request.signal = number
        restore()
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(_PATIENCE)

    def give_up(number: int, frame: Any) -> None:
        raise StoppedError(
            f"Stopped: no checkpoint could be written within {_PATIENCE} s; the last one stands.",
            "Run the same command again to go on from there.",
            request.signal or signal.SIGINT,
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


def stopped(request: StopRequest, step: int, steps: int) -> StoppedError:
    """The error that says where a run was stopped, with the exit code of its signal."""
    return StoppedError(
        f"Stopped at step {step:,} of {steps:,}; a checkpoint is written.",
        "Run the same command again to go on from there.",
        request.signal or signal.SIGINT,
    )


class Keeper(TrainerCallback):
    """Has checkpoints written in time, seals them, and keeps the last two.

    Args:
        cadence: How often.
        request: Asks for one more, and then for the end.
        memory: What else has to come back with a checkpoint, as JSON can hold it.
    """

    def __init__(self, cadence: Cadence, request: StopRequest, memory: Mapping[str, Any]) -> None:
        self.cadence, self.request, self.memory = cadence, request, memory
        self.last_step, self.last_time = 0, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count from where the training begins, which may be a checkpoint."""
        self.last_step, self.last_time = state.global_step, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """In the middle of an epoch."""
        # An epoch's last step is left to on_epoch_end: a checkpoint between the step and the
        # epoch's evaluation would go on without ever evaluating it.
        if _inside_an_epoch(args, state):
            self._save_where_due(state, control, model)

    def on_epoch_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """After an epoch, once it is evaluated; also after a stop in the middle of one."""
        if _inside_an_epoch(args, state):
            control.should_log = control.should_evaluate = control.should_save = False
        elif state.global_step < state.max_steps:
            self._save_where_due(state, control, model)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The Trainer has written a checkpoint."""
        self.last_step, self.last_time = state.global_step, time.monotonic()
        # Each process writes a file of its own.
        processes.wait_for_all()
        if args.should_save:
            scratch = Path(args.output_dir)
            seal(scratch / f"checkpoint-{state.global_step}", self.memory)
            prune(scratch, state.best_model_checkpoint)

    def _save_where_due(self, state: Any, control: Any, model: Any) -> None:
        steps, seconds = self.cadence.steps, self.cadence.seconds
        due = steps is not None and state.global_step - self.last_step >= steps
        due |= seconds is not None and time.monotonic() - self.last_time >= seconds
        # A signal reaches processes at different steps, and clocks differ: what one wants, all do.
        stop, some_due = processes.largest([self.request.signal or 0, due])
        self.request.signal = int(stop) or None
        control.should_save |= bool(some_due) or self.request.asked
        # The next step's loss will tell of it; until then the last good checkpoint is to stay.
        control.should_save = control.should_save and all(
            parameter.isfinite().all() for parameter in model.parameters()
        )
        control.should_training_stop |= self.request.asked


def _inside_an_epoch(args: Any, state: Any) -> bool:
    return bool(state.global_step % (state.max_steps // round(args.num_train_epochs)))


def seal(checkpoint: Path, memory: Mapping[str, Any]) -> None:
    """Bring a checkpoint's files to the disk, and say that it is whole."""
    (checkpoint / _SEAL).unlink(missing_ok=True)
    bring_to_disk(checkpoint)
    sizes = {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    write_whole(checkpoint / _SEAL, json.dumps({"sizes": sizes, "memory": memory}))


def newest(scratch: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint and its memory; those that aren't whole are removed."""
    for checkpoint in _by_age(scratch):
        found = _read_seal(checkpoint)
        if found is not None:
            return checkpoint, found["memory"]
        shutil.rmtree(checkpoint)
    return None


def prune(scratch: Path, best: str | None) -> None:
    """Remove all checkpoints but the last two, and the best where one is to be kept."""
    for checkpoint in _by_age(scratch)[_KEPT:]:
        if str(checkpoint) != best:
            shutil.rmtree(checkpoint)


def _by_age(scratch: Path) -> list[Path]:
    """The checkpoints, newest first."""
    found = [path for path in scratch.glob("checkpoint-*") if path.name[11:].isdigit()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was written at."""
    return int(checkpoint.name[11:])


def _read_seal(checkpoint: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((checkpoint / _SEAL).read_text())
        sizes = found["sizes"].items()
        whole = all((checkpoint / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, KeyError):
        return None
    return found if whole else None
