"""Stopping a training by Ctrl-C or SIGTERM, after one more checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdcli.errors import RunInterruptedError

# Schedulers mostly kill a process half a minute after they ask it to end.
_STOP_TIMEOUT_SECONDS = 25


class StopRequest:
    """A request to stop the process, with the signal that made it."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @property
    def stop_requested(self) -> bool:
        """Return whether to save a checkpoint and stop."""
        return self.signal_number is not None


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Within the block the first Ctrl-C or SIGTERM sets the request; the second ends the process.

    Raises:
        RunInterruptedError: A long step left no time for a checkpoint.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def set_request(number: int, frame: Any) -> None:
        request.signal_number = number
        restore()
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(_STOP_TIMEOUT_SECONDS)

    def give_up(number: int, frame: Any) -> None:
        raise RunInterruptedError(
            f"Stopped without a new checkpoint: writing one took over {_STOP_TIMEOUT_SECONDS} s.",
            "Run the same command again to resume from the last one.",
            request.signal_number or signal.SIGINT,
        )

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, set_request)
    try:
        yield request
    finally:
        signal.alarm(0)
        restore()


def stopped_at_step_error(
    stop_request: StopRequest, step: int, total_steps: int
) -> RunInterruptedError:
    """Return the error for a stopped run, with its step and the exit code of its signal."""
    return RunInterruptedError(
        f"Stopped at step {step:,} of {total_steps:,}; a checkpoint is written.",
        "Run the same command again to resume from there.",
        stop_request.signal_number or signal.SIGINT,
    )
