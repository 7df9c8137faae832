"""Check free memory and disk space before a long computation."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from kdcli.errors import ResourceError

_CGROUP_ROOT = Path("/sys/fs/cgroup")
# Files below that folder, for cgroup v2 and v1: the limit, the usage, the statistics, and the field
# of the statistics that holds reclaimable page cache.
_CGROUP_MEMORY_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
     "total_inactive_file"),
)  # fmt: skip


def require_memory(required_bytes: float, purpose: str, hint: str) -> None:
    """Raise if there is too little free memory.

    Args:
        required_bytes: Memory that the work needs.
        purpose: What needs it; the subject of the error message.
        hint: How the user can reduce it.

    Raises:
        ResourceError: Less memory is free.
    """
    free = free_memory_bytes()
    if free < required_bytes:
        raise ResourceError(
            f"{purpose} takes about {required_bytes / 1e9:,.1f} GB of memory, and "
            f"{free / 1e9:,.1f} GB are free.",
            hint,
        )


def require_disk(required_bytes: float, folder: Path, purpose: str) -> None:
    """Raise if there is too little free space on a folder's disk.

    Args:
        required_bytes: Disk space that the work needs.
        folder: Existing folder on the disk.
        purpose: What needs it, as in `training`, for the error message.

    Raises:
        ResourceError: Less space is free.
    """
    free = shutil.disk_usage(folder).free
    if free < required_bytes:
        raise ResourceError(
            f"{folder} has room for {free / 1e6:,.0f} MB, and {purpose} needs up to "
            f"{required_bytes / 1e6:,.0f} MB.",
            "Make room, or name another --output.",
        )


def free_memory_bytes() -> int:
    """Free memory in bytes, within the limits of the machine and of the container."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_container_free_memory()])


def _container_free_memory() -> Iterator[int]:
    for limit_file, usage_file, stat_file, field in _CGROUP_MEMORY_FILES:
        try:
            limit, usage, statistics = (
                (_CGROUP_ROOT / file).read_text(encoding="ascii")
                for file in (limit_file, usage_file, stat_file)
            )
            reclaimable = int(dict(line.split() for line in statistics.splitlines())[field])
            yield int(limit) - int(usage) + reclaimable
        except (OSError, ValueError, KeyError):
            # There is no cgroup of this version, or it has no limit ("max").
            continue
