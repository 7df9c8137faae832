"""What the machine has to give: asked before hours are spent."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from kdcli.errors import ResourceError

_CGROUP_ROOT = Path("/sys/fs/cgroup")
# Below that folder, for the second and the first version of control groups: the limit, what is
# taken, and of that the part that is only a copy of files and can be had back.
_CGROUP_MEMORY_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
     "total_inactive_file"),
)  # fmt: skip


def require_memory(required_bytes: float, purpose: str, hint: str) -> None:
    """Refuse work for which there is too little memory.

    Args:
        required_bytes: Bytes.
        purpose: Begins the sentence.
        hint: How to get by with less.

    Raises:
        MachineError: There is less.
    """
    free = free_memory_bytes()
    if free < required_bytes:
        raise ResourceError(
            f"{purpose} takes about {required_bytes / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB "
            "are free.",
            hint,
        )


def require_disk(required_bytes: float, folder: Path, purpose: str) -> None:
    """Refuse work for which a folder's disk has too little room.

    Args:
        required_bytes: Bytes.
        folder: It is there.
        purpose: What needs them, as `training`: the middle of the sentence.

    Raises:
        MachineError: There are fewer.
    """
    free = shutil.disk_usage(folder).free
    if free < required_bytes:
        raise ResourceError(
            f"{folder} has room for {free / 1e6:,.0f} MB, and {purpose} needs up to "
            f"{required_bytes / 1e6:,.0f} MB.",
            "Make room, or name another --output.",
        )


def free_memory_bytes() -> int:
    """The bytes that may still be taken, of the machine's memory and of the container's."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_container_free_memory()])


def _container_free_memory() -> Iterator[int]:
    for limit, taken, parts, name in _CGROUP_MEMORY_FILES:
        try:
            most, now, rows = (
                (_CGROUP_ROOT / file).read_text(encoding="ascii") for file in (limit, taken, parts)
            )
            reclaimable = int(dict(row.split() for row in rows.splitlines())[name])
            yield int(most) - int(now) + reclaimable
        except (OSError, ValueError, KeyError):
            # No control group of this version, or one without a limit ("max").
            continue
