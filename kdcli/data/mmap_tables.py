"""Tables that are memory-mapped from a file instead of held in memory."""

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# Tables with at least this many decoded bytes go through a file.
_MAX_BYTES_IN_MEMORY = 32_000_000


def create_cache_file() -> Path:
    """Create an empty file in the cache of `datasets` (HF_DATASETS_CACHE)."""
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".arrow", "kd-", folder)
    os.close(handle)
    return Path(name)


def unlink_cache_file(path: Path) -> None:
    """Delete a file that is mapped: its space is freed when the mapping ends, even by a crash.

    Windows can't delete a mapped file; there it stays until the cache is emptied.
    """
    with suppress(OSError):
        path.unlink()


def collect_table(schema: "pa.Schema", batches: Iterable["pa.RecordBatch"]) -> "pa.Table":
    """Collect batches in a table, in memory or, if they are large, memory-mapped from a file.

    The limit counts decoded bytes as they arrive: a file of a few hundred KB may hold gigabytes.
    """
    import pyarrow as pa

    remaining = iter(batches)
    kept: list[pa.RecordBatch] = []
    size = 0
    for batch in remaining:
        kept.append(batch)
        size += batch.nbytes
        if size >= _MAX_BYTES_IN_MEMORY:
            break
    else:
        return pa.Table.from_batches(kept, schema)
    file = create_cache_file()
    try:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            while kept:
                writer.write_batch(kept.pop(0))
            for batch in remaining:
                writer.write_batch(batch)
        return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
    finally:
        unlink_cache_file(file)
