"""Everything that `kd` reports as an error.

    KdError
    ├── GateMissedError      1   a figure is on the wrong side of a threshold
    ├── MendableError        2   the user can put it right
    │   ├── RecipeError          a recipe or a --set override
    │   ├── UsageError           a flag or an argument
    │   ├── DataError            a data set, a file, a column, a label
    │   │   └── NoColumnError        a column that the recipe names
    │   ├── ModelError           a teacher, a student, their files
    │   ├── NoSuchParameterError an API that gives no log-probabilities
    │   └── CeilingError         an API's next answer may cost too much
    ├── WorldError           3   something outside failed; nothing is lost, run again
    │   ├── HubError             the Hub or an API, or the way to it
    │   └── MachineError         disk, memory
    └── StoppedError       130   stopped by the user; run again to go on

The message is one sentence that names the file, line or key at fault; the hint says the way out.
"""

import errno
import os
import re
import signal
from collections.abc import Sequence

from kdcli.outside import printable, without_secrets

_GO_ON = "and run the same command again: what is finished is kept."
ELSEWHERE = f"Name another place (--output, HF_HOME, TMPDIR) {_GO_ON}"
_NO_ROOM = f"Make room, or raise the limit on the size of files (ulimit -f), {_GO_ON}"
# What a machine runs out of, and the way out.
_SHORTAGES = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: _NO_ROOM,
    errno.EMFILE: f"Raise the limit on open files (ulimit -n), {_GO_ON}",
    errno.ENFILE: f"Close other programs, {_GO_ON}",
    errno.EROFS: ELSEWHERE,
    errno.EIO: f"Look after the disk, {_GO_ON}",
}
# Compiled libraries tell of it in words alone.
_NUMBER = re.compile(r"(?:\(os error |\[Errno |open files \()(\d+)[)\]]")
_MEMORY = re.compile(
    r"(allocate|enough|out of) memory|bad_alloc|failed to map segment|could not create a primitive"
)
_TORCH_WRITES = re.compile(r"inline_container|PytorchStreamWriter|iostream error")
_LONGEST = 1000


class KdError(Exception):
    """An error with an exit code and, mostly, a way out.

    Args:
        message: One sentence, naming the file, line or key.
        hint: What to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = (_one_line(without_secrets(t)) for t in (message, hint))
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def _one_line(text: str) -> str:
    """The text as it may be printed: what it quotes can hold anything, and be of any length."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return printable(text)


class GateMissedError(KdError):
    """Measured figures missed thresholds that the user set.

    Args:
        message: One sentence.
        missed: A line for each gate.
    """

    exit_code = 1

    def __init__(self, message: str, missed: Sequence[str]) -> None:
        super().__init__(message)
        self.missed = missed


class MendableError(KdError):
    """The user can put it right."""


class RecipeError(MendableError):
    """A recipe, or an override of one, is wrong."""


class UsageError(MendableError):
    """A flag or an argument is wrong."""


class DataError(MendableError):
    """A data set can't be used as it is."""


class NoColumnError(DataError):
    """A column that the recipe names isn't there.

    Args:
        key: The part of the recipe's `data` that names it, `text` or `label`.
        column: Its name.
        where: What it is missing from.
        known: The columns that are there.
    """

    def __init__(self, key: str, column: str, where: object, known: Sequence[str]) -> None:
        super().__init__(
            f"data.{key}: there is no column {column} in {where}.",
            f"Its columns: {', '.join(known)}.",
        )
        self.key, self.known = key, tuple(known)


class ModelError(MendableError):
    """A model can't be used as it is."""


class NoSuchParameterError(MendableError):
    """The server refuses to give log-probabilities."""


class CeilingError(MendableError):
    """One more answer might cost more than the user allows."""


class WorldError(KdError):
    """Something outside failed; what was done so far is kept."""

    exit_code = 3


class HubError(WorldError):
    """The Hub didn't answer, or refused."""


class MachineError(WorldError):
    """The machine ran out of something."""


class StoppedError(KdError):
    """The user stopped the run.

    Args:
        message: One sentence.
        hint: How to go on.
        number: The signal that did it; the exit code says which.
    """

    exit_code = 130

    def __init__(self, message: str, hint: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + number


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def signal_of(error: KeyboardInterrupt) -> int:
    """The signal that raised it."""
    return signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT


def of_machine(error: BaseException) -> MachineError | None:
    """What the machine ran out of, where that is at the bottom of an error; None elsewhere.

    Args:
        error: As it was caught, in whatever a library has wrapped it.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        number = _error_number(cause, text)
        compiled = isinstance(cause, RuntimeError | ImportError)
        memory = isinstance(cause, MemoryError) or number == errno.ENOMEM
        if memory or (compiled and _MEMORY.search(text)):
            return MachineError("There is not enough memory.", "Try a smaller batch_size.")
        if number in _SHORTAGES:
            file = getattr(cause, "filename", None)
            where = f"{file}: " if file else ""
            return MachineError(f"{where}{os.strerror(number)}.", _SHORTAGES[number])
        if compiled and _TORCH_WRITES.search(text):
            return MachineError("A checkpoint can't be written.", _NO_ROOM)
        cause = cause.__cause__
    return None


def _error_number(error: BaseException, text: str) -> int:
    number = getattr(error, "errno", None)
    written = _NUMBER.search(text)
    if written and not isinstance(number, int):
        number = int(written[1])
    return number if isinstance(number, int) else 0


def first_line(error: BaseException) -> str:
    """The first line of a library's message, as a sentence; its class where it has no message."""
    line = next((part.strip() for part in str(error).splitlines() if part.strip()), "")
    return (line or type(error).__name__).rstrip(".:")[:300] + "."
