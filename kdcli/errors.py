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

from kdcli.sanitize import printable, redact_secrets

_RERUN_HINT = "and run the same command again: what is finished is kept."
ELSEWHERE_HINT = f"Name another place (--output, HF_HOME, TMPDIR) {_RERUN_HINT}"
_NO_SPACE_HINT = f"Make room, or raise the limit on the size of files (ulimit -f), {_RERUN_HINT}"
# What a machine runs out of, and the way out.
_RESOURCE_ERRNO_HINTS = {
    errno.ENOSPC: _NO_SPACE_HINT,
    errno.EDQUOT: _NO_SPACE_HINT,
    errno.EFBIG: _NO_SPACE_HINT,
    errno.EMFILE: f"Raise the limit on open files (ulimit -n), {_RERUN_HINT}",
    errno.ENFILE: f"Close other programs, {_RERUN_HINT}",
    errno.EROFS: ELSEWHERE_HINT,
    errno.EIO: f"Look after the disk, {_RERUN_HINT}",
}
# Compiled libraries tell of it in words alone.
_ERRNO_PATTERN = re.compile(r"(?:\(os error |\[Errno |open files \()(\d+)[)\]]")
_OUT_OF_MEMORY_PATTERN = re.compile(
    r"(allocate|enough|out of) memory|bad_alloc|failed to map segment|could not create a primitive"
)
_TORCH_WRITE_PATTERN = re.compile(r"inline_container|PytorchStreamWriter|iostream error")
_MAX_MESSAGE_LENGTH = 1000


class KdError(Exception):
    """An error with an exit code and, mostly, a way out.

    Args:
        message: One sentence, naming the file, line or key.
        hint: What to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = (_printable_message(redact_secrets(t)) for t in (message, hint))
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def _printable_message(text: str) -> str:
    """The text as it may be printed: what it quotes can hold anything, and be of any length."""
    if len(text) > _MAX_MESSAGE_LENGTH:
        text = f"{text[: _MAX_MESSAGE_LENGTH // 2]} … {text[-_MAX_MESSAGE_LENGTH // 2 :]}"
    return printable(text)


class GateFailedError(KdError):
    """Measured figures missed thresholds that the user set.

    Args:
        message: One sentence.
        failed_gates: A line for each gate.
    """

    exit_code = 1

    def __init__(self, message: str, failed_gates: Sequence[str]) -> None:
        super().__init__(message)
        self.failed_gates = failed_gates


class UserError(KdError):
    """The user can put it right."""


class RecipeError(UserError):
    """A recipe, or an override of one, is wrong."""


class UsageError(UserError):
    """A flag or an argument is wrong."""


class DataError(UserError):
    """A data set can't be used as it is."""


class MissingColumnError(DataError):
    """A column that the recipe names isn't there.

    Args:
        key: The part of the recipe's `data` that names it, `text` or `label`.
        column: Its name.
        where: What it is missing from.
        available_columns: The columns that are there.
    """

    def __init__(
        self, key: str, column: str, location: object, available_columns: Sequence[str]
    ) -> None:
        super().__init__(
            f"data.{key}: there is no column {column} in {location}.",
            f"Its columns: {', '.join(available_columns)}.",
        )
        self.key, self.available_columns = key, tuple(available_columns)


class ModelError(UserError):
    """A model can't be used as it is."""


class LogprobsUnsupportedError(UserError):
    """The server refuses to give log-probabilities."""


class CostLimitError(UserError):
    """One more answer might cost more than the user allows."""


class ExternalError(KdError):
    """Something outside failed; what was done so far is kept."""

    exit_code = 3


class HubError(ExternalError):
    """The Hub didn't answer, or refused."""


class ResourceError(ExternalError):
    """The machine ran out of something."""


class RunInterruptedError(KdError):
    """The user stopped the run.

    Args:
        message: One sentence.
        hint: How to go on.
        number: The signal that did it; the exit code says which.
    """

    exit_code = 130

    def __init__(self, message: str, hint: str = "", signal_number: int = signal.SIGINT) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


class SigtermInterrupt(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def signal_number_of(error: KeyboardInterrupt) -> int:
    """The signal that raised it."""
    return signal.SIGTERM if isinstance(error, SigtermInterrupt) else signal.SIGINT


def as_resource_error(error: BaseException) -> ResourceError | None:
    """What the machine ran out of, where that is at the bottom of an error; None elsewhere.

    Args:
        error: As it was caught, in whatever a library has wrapped it.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        number = _errno_of(cause, text)
        compiled = isinstance(cause, RuntimeError | ImportError)
        memory = isinstance(cause, MemoryError) or number == errno.ENOMEM
        if memory or (compiled and _OUT_OF_MEMORY_PATTERN.search(text)):
            return ResourceError("There is not enough memory.", "Try a smaller batch_size.")
        if number in _RESOURCE_ERRNO_HINTS:
            file = getattr(cause, "filename", None)
            where = f"{file}: " if file else ""
            return ResourceError(f"{where}{os.strerror(number)}.", _RESOURCE_ERRNO_HINTS[number])
        if compiled and _TORCH_WRITE_PATTERN.search(text):
            return ResourceError("A checkpoint can't be written.", _NO_SPACE_HINT)
        cause = cause.__cause__
    return None


def _errno_of(error: BaseException, text: str) -> int:
    number = getattr(error, "errno", None)
    written = _ERRNO_PATTERN.search(text)
    if written and not isinstance(number, int):
        number = int(written[1])
    return number if isinstance(number, int) else 0


def first_message_line(error: BaseException) -> str:
    """The first line of a library's message, as a sentence; its class where it has no message."""
    line = next((part.strip() for part in str(error).splitlines() if part.strip()), "")
    return (line or type(error).__name__).rstrip(".:")[:300] + "."
