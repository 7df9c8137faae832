"""From what a person writes to a place on this disk."""

import errno
import glob
import re
from pathlib import Path

from kdcli.errors import UsageError

_GLOB_CHARACTERS = re.compile(r"[*?\[]")
_INVALID_PATH_ERRORS = {
    errno.ENAMETOOLONG: "is too long for a path",
    errno.ELOOP: "is a link to itself",
}


def expand_local_path(reference: str, base: Path = Path()) -> Path:
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
        if error.errno in _INVALID_PATH_ERRORS:
            raise UsageError(f"{reference} {_INVALID_PATH_ERRORS[error.errno]}.") from error
    return path


def is_glob(reference: str) -> bool:
    """Whether what a person wrote may stand for several files, as `part-*.csv` does."""
    return _GLOB_CHARACTERS.search(reference) is not None


def expand_glob(pattern: Path) -> list[Path]:
    """The files that a pattern stands for, by name; `**` is any number of folders.

    What exists under its own name is meant itself: `[2024]` is no pattern in a folder's name.
    """
    if pattern.is_file():
        return [pattern]
    base = next((path for path in pattern.parents if path.is_dir()), Path())
    rest = str(pattern.relative_to(base))
    # Unlike pathlib's, it leaves hidden files aside.
    found = (base / name for name in glob.iglob(rest, root_dir=base, recursive=True))  # noqa: PTH207
    return sorted(path for path in found if path.is_file())
