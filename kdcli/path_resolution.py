"""Resolve paths and glob patterns that a user wrote."""

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
    """Expand `~` and resolve a path relative to `base`; the path need not exist.

    Args:
        reference: Path as the user wrote it.
        base: Folder that a relative path starts from.

    Raises:
        UsageError: No such path can exist.
    """
    try:
        path = base / Path(reference).expanduser()
        path.stat()
    except RuntimeError as error:
        raise UsageError(f"{reference}: there is no such user.", "Write the full path.") from error
    except ValueError as error:
        raise UsageError(f"{reference}: a path can't contain this character.") from error
    except OSError as error:
        if error.errno in _INVALID_PATH_ERRORS:
            raise UsageError(f"{reference} {_INVALID_PATH_ERRORS[error.errno]}.") from error
    return path


def is_glob(reference: str) -> bool:
    """Return True if a path contains glob characters, as `part-*.csv` does."""
    return _GLOB_CHARACTERS.search(reference) is not None


def expand_glob(pattern: Path) -> list[Path]:
    """List the files that match a pattern, sorted; `**` matches any number of folders.

    The longest existing prefix is taken literally, so a folder may be called `[2024]`.
    """
    if pattern.is_file():
        return [pattern]
    base = next((path for path in pattern.parents if path.is_dir()), Path())
    glob_pattern = str(pattern.relative_to(base))
    # Unlike pathlib's glob, iglob skips hidden files.
    names = glob.iglob(glob_pattern, root_dir=base, recursive=True)  # noqa: PTH207
    return sorted(base / name for name in names if (base / name).is_file())
