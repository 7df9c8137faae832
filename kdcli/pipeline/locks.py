"""Locks: one writer per run folder, and one run at work that several runs need."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcli.errors import UsageError
from kdcli.pipeline.run_folder import RunFolder
from kdcli.progress import Reporter
from kdcli.safe_files import write_text_atomically


@contextmanager
def run_folder_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a run folder within the block.

    Raises:
        UsageError: Another process works there; the message names it and its start.
    """
    from filelock import FileLock, Timeout

    RunFolder.open(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / ".lock"), folder / ".holder"
    try:
        # The system releases the lock of a dead process: no lock is stale.
        lock.acquire(blocking=False)
    except Timeout as error:
        who = (
            holder.read_text(encoding="utf-8", errors="replace")
            if holder.is_file()
            else "another process"
        )
        raise UsageError(
            f"Another kd is at work in {folder}: {who}.", "Wait for it, or name another --output."
        ) from error
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        text = f"process {os.getpid()} on {socket.gethostname()}, since {since}"
        write_text_atomically(holder, text)
        yield
    finally:
        lock.release()


@contextmanager
def shared_work_lock(path: Path, reporter: Reporter) -> Iterator[None]:
    """Keep other runs from doing the same work within the block; wait for one that does it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_suffix(".lock"))
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            reporter.info("Another run is doing the same work: waiting for its outcome.")
            lock.acquire()
    except OSError:
        # The parent folder is not writable: no other run can share the work there.
        yield
        return
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
