"""Read and write files safely in folders that other users may have prepared.

No function follows a symbolic link out of the folder that it was given.
"""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kdcli.errors import UsageError

# Windows lacks these flags; there, creating links needs a special permission.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | getattr(os, "O_BINARY", 0)


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a new binary file for writing and rename it to `path` when the block succeeds.

    The file is created next to `path` under an unpredictable name, synced to disk, and renamed. A
    link at `path` is replaced, and its target is not touched. The mode follows the umask.
    """
    temporary = path.with_name(f".kd-{secrets.token_hex(8)}.new")
    with os.fdopen(os.open(temporary, _CREATE_FLAGS, 0o666), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small text file and sync it, so that `path` is either complete or unchanged."""
    with open_atomically(path) as file:
        file.write(text.encode())


def append_text(path: Path, text: str) -> None:
    """Append to a text file, creating it if needed.

    Raises:
        OSError: `path` is a link or can't be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_FOLLOW
    with os.fdopen(os.open(path, flags, 0o666), "ab") as file:
        file.write(text.encode())


def raise_if_symlink(*paths: Path) -> None:
    """Raise if a path is a symbolic link, because writes would end up elsewhere.

    Raises:
        UsageError: Names the link.
    """
    for path in paths:
        if path.is_symlink():
            raise UsageError(
                f"{path} is a link, and kd writes or deletes there.",
                "Replace the link by its target, or name another --output.",
            )


def is_inside(folder: Path, name: Any) -> bool:
    """Return True if `name`, from an untrusted file, stays in `folder`, with links resolved.

    The files of a snapshot in the Hub cache are links to the cache's `blobs`; these count as
    inside.
    """
    if not isinstance(name, str) or "\0" in name:
        return False
    path = folder / name
    # The path as written, and the path with its links resolved.
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):  # noqa: PTH100
        return False
    root, target = folder.resolve(), path.resolve()
    if target.is_relative_to(root):
        return True
    for parent in (root, *root.parents):
        if parent.parent.name == "snapshots":
            return target.is_relative_to(parent.parent.parent / "blobs")
    return False


def find_escaping_symlink(folder: Path) -> Path | None:
    """Find a symbolic link below `folder` that leads out of it; None if there is none."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not is_inside(folder, str(path.relative_to(folder))):
                return path
    return None


def hardlink_or_copy(source: str, target: str) -> None:
    """Create `target` as a hard link if this user owns `source`, otherwise as a copy.

    A file of another user is copied, because its owner could change it after it was verified.

    Raises:
        OSError: `source` is a link, is not a regular file, or can't be read.
    """
    try:
        os.link(source, target, follow_symlinks=False)
        if _is_own_regular_file(os.lstat(target)):
            return
        Path(target).unlink()
    except (OSError, NotImplementedError):
        pass  # Another disk, one without hard links, or a link that the system forbids.
    # O_NONBLOCK: opening a named pipe would wait for a writer.
    handle = os.open(source, os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{source} is not a regular file")
        with Path(target).open("xb") as copy:
            shutil.copyfileobj(file, copy)


def _is_own_regular_file(status: os.stat_result) -> bool:
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return is_own and stat.S_ISREG(status.st_mode)


def apply_umask(folder: Path) -> None:
    """Give every file below `folder` the mode that a new file gets there.

    safetensors writes files that other users can't read, whatever the umask.
    """
    new = folder / f".kd-{secrets.token_hex(8)}.new"
    os.close(os.open(new, _CREATE_FLAGS, 0o666))
    mode = stat.S_IMODE(new.stat().st_mode)
    new.unlink()
    for parent, _, files in os.walk(folder):
        for path in (Path(parent, name) for name in files):
            # A file that is shared with another run already has its mode.
            if path.stat().st_nlink == 1:
                path.chmod(mode)


def replace_folder(new_folder: Path, target: Path) -> None:
    """Put a new folder in the place of another, which is deleted only when the new one is there."""
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    try:
        new_folder.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def fsync_tree(path: Path) -> None:
    """Sync a file, or everything in a folder, to disk."""
    for child in [path, *path.rglob("*")]:
        fsync_path(child)


def fsync_path(path: Path) -> None:
    """Sync one file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_digests(artifact: Path) -> dict[str, tuple[str, int]]:
    """Return digest and size of every file in a folder, by relative path ('' for a single file)."""
    if artifact.is_file():
        return {"": (sha256_of_file(artifact), artifact.stat().st_size)}
    return {
        str(file.relative_to(artifact)): (sha256_of_file(file), file.stat().st_size)
        for file in sorted(artifact.rglob("*"))
        if file.is_file()
    }
