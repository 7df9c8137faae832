"""Everything that `kd` reports as an error.

    KdError
    ├── GateMissedError      1   a figure is on the wrong side of a threshold
    ├── MendableError        2   the user can put it right
    │   ├── RecipeError          a recipe or a --set override
    │   ├── UsageError           a flag or an argument
    │   ├── DataError            a data set, a file, a column, a label
    │   └── ModelError           a teacher, a student, their files
    ├── WorldError           3   something outside failed; nothing is lost, run again
    │   ├── HubError             the Hub, or the way to it
    │   └── MachineError         disk, memory
    └── StoppedError       130   stopped by the user; run again to go on

The message is one sentence that names the file, line or key at fault; the hint says the way out.
"""


class KdError(Exception):
    """An error with an exit code and, mostly, a way out.

    Args:
        message: One sentence, naming the file, line or key.
        hint: What to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class GateMissedError(KdError):
    """A measured figure missed a threshold that the user set."""

    exit_code = 1


class MendableError(KdError):
    """The user can put it right."""


class RecipeError(MendableError):
    """A recipe, or an override of one, is wrong."""


class UsageError(MendableError):
    """A flag or an argument is wrong."""


class DataError(MendableError):
    """A data set can't be used as it is."""


class ModelError(MendableError):
    """A model can't be used as it is."""


class WorldError(KdError):
    """Something outside failed; what was done so far is kept."""

    exit_code = 3


class HubError(WorldError):
    """The Hub didn't answer, or refused."""


class MachineError(WorldError):
    """The machine ran out of something."""


class StoppedError(KdError):
    """The user stopped the run."""

    exit_code = 130
