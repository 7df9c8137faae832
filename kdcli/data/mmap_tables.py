"""Rows that go through a file rather than through memory."""

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# From so many decoded bytes on, rows go through a file.
_MAX_BYTES_IN_MEMORY = 32_000_000


def create_cache_file() -> Path:
    """An empty file in the cache of `datasets` (HF_DATASETS_CACHE), mapped and then forgotten."""
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".arrow", "kd-", folder)
    os.close(handle)
    return Path(name)


def unlink_cache_file(path: Path) -> None:
    """Take away a file's name: what maps it goes on, and its room is free when that ends.

    However the process ends. On Windows, which can't, the file stays until the cache is emptied.
    """
    with suppress(OSError):
        path.unlink()


def collect_table(schema: "pa.Schema", batches: Iterable["pa.RecordBatch"]) -> "pa.Table":
    """Collect batches in a table: in memory, or where they are large, on disk.

    What counts are the decoded bytes, as they come: a file of a few hundred KB may hold gigabytes.
    Of a table on disk, memory holds what is being read.
    """
    import pyarrow as pa

    left = iter(batches)
    kept: list[pa.RecordBatch] = []
    size = 0
    for batch in left:
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
            for batch in left:
                writer.write_batch(batch)
        return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
    finally:
        unlink_cache_file(file)
