"""Stop signals: SIGTERM acts like Ctrl-C, and neither gets lost."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdcli import distributed
from kdcli.errors import SigtermInterrupt, signal_number_of


@contextmanager
def handle_stop_signals() -> Iterator[None]:
    """Raise stop signals as KeyboardInterrupt, even if they arrive during a `__del__`.

    Python drops exceptions of a `__del__`, so the signal is then sent again.
    """
    timers: list[threading.Timer] = []

    def resend_dropped_signal(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(dropped)
            return
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal_number_of(dropped.exc_value)))
        timer.start()
        timers.append(timer)

    # With several processes the launcher ends them: one that waits for another can't respond.
    if distributed.world_size() == 1:
        signal.signal(signal.SIGTERM, _raise_terminated)
    sys.unraisablehook = resend_dropped_signal
    try:
        yield
    finally:
        sys.unraisablehook = sys.__unraisablehook__
        for timer in timers:
            timer.cancel()


def _raise_terminated(signal_number: int, frame: Any) -> None:
    raise SigtermInterrupt
