"""Exceptions of kd, with their exit codes.

    KdError
    ├── GateFailedError             1   a metric missed a threshold
    ├── UserError                   2   the user can fix it
    │   ├── RecipeError                 a recipe or a --set override
    │   ├── UsageError                  a flag or an argument
    │   ├── DataError                   a data set, a file, a column, a label
    │   │   └── MissingColumnError          a column that the recipe names
    │   ├── ModelError                  a teacher, a student, their files
    │   ├── LogprobsUnsupportedError    an API without log-probabilities
    │   └── CostLimitError              an API's next answer may exceed the cost limit
    ├── ExternalError               3   something outside kd failed; run the command again
    │   ├── RemoteServiceError          the Hub or an API, or the connection to it
    │   └── ResourceError               disk, memory
    └── RunInterruptedError       130   stopped by the user; run the command again to continue

The message is one sentence that names the file, line or key at fault. The hint tells the user what
to do.
"""

import errno
import os
import re
import signal
from collections.abc import Sequence

from kdcli.sanitize import printable, redact_secrets

_RERUN_HINT = "and run the same command again: finished work is kept."
ELSEWHERE_HINT = f"Use another location (--output, HF_HOME, TMPDIR) {_RERUN_HINT}"
_NO_SPACE_HINT = f"Make room, or raise the limit on the size of files (ulimit -f), {_RERUN_HINT}"
# Hints for each resource that a machine can run out of.
_RESOURCE_ERRNO_HINTS = {
    errno.ENOSPC: _NO_SPACE_HINT,
    errno.EDQUOT: _NO_SPACE_HINT,
    errno.EFBIG: _NO_SPACE_HINT,
    errno.EMFILE: f"Raise the limit on open files (ulimit -n), {_RERUN_HINT}",
    errno.ENFILE: f"Close other programs, {_RERUN_HINT}",
    errno.EROFS: ELSEWHERE_HINT,
    errno.EIO: f"Check the disk, {_RERUN_HINT}",
}
# Compiled libraries report the number only within the message.
_ERRNO_PATTERN = re.compile(r"(?:\(os error |\[Errno |open files \()(\d+)[)\]]")
_OUT_OF_MEMORY_PATTERN = re.compile(
    r"(allocate|enough|out of) memory|bad_alloc|failed to map segment|could not create a primitive"
)
_TORCH_WRITE_PATTERN = re.compile(r"inline_container|PytorchStreamWriter|iostream error")
_MAX_MESSAGE_LENGTH = 1000


class KdError(Exception):
    """Base class of kd's errors, with an exit code and an optional hint.

    Args:
        message: One sentence that names the file, line or key.
        hint: What the user can do about it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = (_printable_message(redact_secrets(t)) for t in (message, hint))
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def _printable_message(text: str) -> str:
    """Shorten a message and escape control characters, since it may quote any text."""
    if len(text) > _MAX_MESSAGE_LENGTH:
        text = f"{text[: _MAX_MESSAGE_LENGTH // 2]} … {text[-_MAX_MESSAGE_LENGTH // 2 :]}"
    return printable(text)


class GateFailedError(KdError):
    """Metrics missed thresholds that the user set.

    Args:
        message: One sentence.
        failed_gates: One line for each failed gate.
    """

    exit_code = 1

    def __init__(self, message: str, failed_gates: Sequence[str]) -> None:
        super().__init__(message)
        self.failed_gates = failed_gates


class UserError(KdError):
    """Base class of errors that the user can fix."""


class RecipeError(UserError):
    """Invalid recipe, or invalid override of one."""


class UsageError(UserError):
    """Invalid flag or argument."""


class DataError(UserError):
    """Data set that can't be used."""


class MissingColumnError(DataError):
    """Column that the recipe names and the data lacks.

    Args:
        key: Recipe key under `data` that names the column, `text` or `label`.
        column: Name of the missing column.
        location: File or data set that lacks it.
        available_columns: Names of the existing columns.
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
    """Model that can't be used."""


class LogprobsUnsupportedError(UserError):
    """Server without log-probabilities."""


class CostLimitError(UserError):
    """The next answer of an API might exceed the cost limit."""


class ExternalError(KdError):
    """Failure outside kd; finished work is kept."""

    exit_code = 3


class RemoteServiceError(ExternalError):
    """A remote service (the Hub, an API) did not answer, or refused the request."""


class ResourceError(ExternalError):
    """The machine ran out of a resource such as disk or memory."""


class RunInterruptedError(KdError):
    """The user stopped the run.

    Args:
        message: One sentence.
        hint: How to continue.
        signal_number: Signal that stopped the run; the exit code is 128 plus this number.
    """

    exit_code = 130

    def __init__(self, message: str, hint: str = "", signal_number: int = signal.SIGINT) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


class SigtermInterrupt(KeyboardInterrupt):
    """KeyboardInterrupt raised for SIGTERM, so that it ends a command as Ctrl-C does."""


def signal_number_of(error: KeyboardInterrupt) -> int:
    """Signal that raised the interrupt: SIGTERM or SIGINT."""
    return signal.SIGTERM if isinstance(error, SigtermInterrupt) else signal.SIGINT


def as_resource_error(error: BaseException) -> ResourceError | None:
    """Return a ResourceError if an exhausted resource caused the error, else None.

    Args:
        error: The caught exception; its chain of causes is searched.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        number = _errno_of(cause, text)
        from_compiled_code = isinstance(cause, RuntimeError | ImportError)
        out_of_memory = isinstance(cause, MemoryError) or number == errno.ENOMEM
        if out_of_memory or (from_compiled_code and _OUT_OF_MEMORY_PATTERN.search(text)):
            return ResourceError("There is not enough memory.", "Try a smaller batch_size.")
        if number in _RESOURCE_ERRNO_HINTS:
            file = getattr(cause, "filename", None)
            where = f"{file}: " if file else ""
            return ResourceError(f"{where}{os.strerror(number)}.", _RESOURCE_ERRNO_HINTS[number])
        if from_compiled_code and _TORCH_WRITE_PATTERN.search(text):
            return ResourceError("Can't write a checkpoint.", _NO_SPACE_HINT)
        cause = cause.__cause__
    return None


def _errno_of(error: BaseException, text: str) -> int:
    number = getattr(error, "errno", None)
    match = _ERRNO_PATTERN.search(text)
    if match and not isinstance(number, int):
        number = int(match[1])
    return number if isinstance(number, int) else 0


def first_message_line(error: BaseException) -> str:
    """First line of a library's error message as a sentence, or the class name if it is empty."""
    line = next((part.strip() for part in str(error).splitlines() if part.strip()), "")
    return (line or type(error).__name__).rstrip(".:")[:300] + "."
