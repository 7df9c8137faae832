"""Files in folders that others may have prepared: one way to write, one way to read inside.

Nothing here follows a symbolic link out of the folder it was given.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kdcli.errors import UsageError

# Windows has no such flags, and its users need a right of their own to make links.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | getattr(os, "O_BINARY", 0)


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file for writing in binary; it takes the name `path` when the block ends well.

    The file is created beside `path` under a name that nobody can foresee, brought to the disk,
    and renamed. A link at `path` is replaced; what it points to is not touched. The mode follows
    the umask.
    """
    beside = path.with_name(f".kd-{secrets.token_hex(8)}.new")
    with os.fdopen(os.open(beside, _CREATE_FLAGS, 0o666), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small text file and bring it to the disk: under its name it is whole or absent."""
    with open_atomically(path) as file:
        file.write(text.encode())


def append_text(path: Path, text: str) -> None:
    """Append to a text file, created where it is missing.

    Raises:
        OSError: `path` is a link, or can't be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_FOLLOW
    with os.fdopen(os.open(path, flags, 0o666), "ab") as file:
        file.write(text.encode())


def refuse_symlinks(*places: Path) -> None:
    """Raise where one of the places is a link: what is written there would land elsewhere.

    Raises:
        UsageError: Naming it.
    """
    for place in places:
        if place.is_symlink():
            raise UsageError(
                f"{place} is a link, and kd writes or deletes there.",
                "Put what it points to in its place, or name another --output.",
            )


def is_inside(folder: Path, name: Any) -> bool:
    """Whether `name`, from a file of others, stays in `folder` as a path and through its links.

    The files of a snapshot in the Hub's cache are links to the cache's `blobs`: these count as
    being inside.
    """
    if not isinstance(name, str) or "\0" in name:
        return False
    path = folder / name
    # As it is written, and through its links.
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):  # noqa: PTH100
        return False
    top, found = folder.resolve(), path.resolve()
    if found.is_relative_to(top):
        return True
    for place in (top, *top.parents):
        if place.parent.name == "snapshots":
            return found.is_relative_to(place.parent.parent / "blobs")
    return False


def find_escaping_symlink(folder: Path) -> Path | None:
    """The first link below `folder` that leads out of it; None where there is none."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not is_inside(folder, str(path.relative_to(folder))):
                return path
    return None


def hardlink_or_copy(source: str, target: str) -> None:
    """Give a regular file a second name where it is this user's own, and copy it elsewhere.

    Its owner could still write to a file of two names after it was checked.

    Raises:
        OSError: `source` is a link or no regular file, or can't be read.
    """
    try:
        os.link(source, target, follow_symlinks=False)
        if _is_own_regular_file(os.lstat(target)):
            return
        Path(target).unlink()
    except (OSError, NotImplementedError):
        pass  # Another disk, one without hard links, or a file that the system doesn't let us link.
    # Not blocking: to open a pipe waits for whoever writes to it.
    handle = os.open(source, os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{source} is no regular file")
        with Path(target).open("xb") as copy:
            shutil.copyfileobj(file, copy)


def _is_own_regular_file(found: os.stat_result) -> bool:
    own = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    return own and stat.S_ISREG(found.st_mode)


def apply_umask(folder: Path) -> None:
    """Give every file below `folder` the mode that a new one gets there.

    The writer of safetensors makes its files unreadable to all others, whatever the umask.
    """
    new = folder / f".kd-{secrets.token_hex(8)}.new"
    os.close(os.open(new, _CREATE_FLAGS, 0o666))
    mode = stat.S_IMODE(new.stat().st_mode)
    new.unlink()
    for place, _, files in os.walk(folder):
        for path in (Path(place, name) for name in files):
            # A file that another run shares already has its mode.
            if path.stat().st_nlink == 1:
                path.chmod(mode)


def fsync_tree(path: Path) -> None:
    """Have a file, or all that is in a folder, outlast a machine that goes down."""
    for place in [path, *path.rglob("*")]:
        fsync_path(place)


def fsync_path(path: Path) -> None:
    """Bring one file or a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
