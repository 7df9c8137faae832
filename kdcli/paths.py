"""From what a person writes to a place on this disk."""

import errno
from pathlib import Path

from kdcli.errors import UsageError

_NEVER = {errno.ENAMETOOLONG: "is too long for a path", errno.ELOOP: "is a link to itself"}


def local(reference: str, base: Path = Path()) -> Path:
    """The path that a person wrote, `~` expanded; nothing need be there.

    Args:
        reference: What was written.
        base: Where a relative path counts from.

    Raises:
        UsageError: Nothing can be there.
    """
    try:
        path = base / Path(reference).expanduser()
        path.stat()
    except RuntimeError as error:
        raise UsageError(
            f"{reference}: this machine knows no such user.", "Write the path in full."
        ) from error
    except ValueError as error:
        raise UsageError(f"{reference}: no path holds such a character.") from error
    except OSError as error:
        if error.errno in _NEVER:
            raise UsageError(f"{reference} {_NEVER[error.errno]}.") from error
    return path
