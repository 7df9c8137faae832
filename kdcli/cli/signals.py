"""Being asked to stop: SIGTERM is heard as Ctrl-C is, and neither is lost."""

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
    """Within it a wish to stop is raised as KeyboardInterrupt, even if it falls into a `__del__`.

    Python drops what a `__del__` raises, so the wish is then made once more.
    """
    again: list[threading.Timer] = []

    def dropped(what: "sys.UnraisableHookArgs") -> None:
        if not isinstance(what.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(what)
            return
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal_number_of(what.exc_value)))
        timer.start()
        again.append(timer)

    # Of several processes the launcher ends each, and one that waits for another can't answer.
    if distributed.world_size() == 1:
        signal.signal(signal.SIGTERM, _raise_terminated)
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = sys.__unraisablehook__
        for timer in again:
            timer.cancel()


def _raise_terminated(signal_number: int, frame: Any) -> None:
    raise SigtermInterrupt
