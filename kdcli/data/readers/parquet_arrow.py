"""Columns of parquet and Arrow files."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.data import mmap_tables
from kdcli.data.readers.base import ColumnarReader, LocatedRow

if TYPE_CHECKING:
    import pyarrow as pa

# Parquet packs a text that repeats as often as it likes: few rows at a time bound what is decoded.
_PARQUET_BATCH_ROWS = 256
_MAX_BATCH_ROWS = 10_000
_MAX_BATCH_BYTES = 8_000_000


class ParquetReader(ColumnarReader):
    """Parquet; what is large once decoded goes through a memory-mapped file."""

    suffixes = (".parquet",)

    def column_names(self, path: Path) -> list[str]:
        """List the columns of a file."""
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)

    def read_table(self, path: Path, columns: Sequence[str]) -> "pa.Table":
        """Read some columns of a file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            fields = [file.schema_arrow.field(column) for column in columns]
            schema = pa.schema(fields, file.schema_arrow.metadata)
            return mmap_tables.collect_table(schema, _iterate_parquet_batches(file, schema))

    def iterate_rows(self, path: Path) -> Iterator[LocatedRow]:
        """Iterate over the rows of a file with all columns, a few of them in memory."""
        import pyarrow.parquet as pq

        start = 1
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS):
                rows = enumerate(batch.to_pylist(), start)
                yield from ((f"{path}, row {number}", row) for number, row in rows)
                start += len(batch)

    def count_rows(self, path: Path) -> int:
        """Count the rows of a file."""
        import pyarrow.parquet as pq

        return pq.read_metadata(path).num_rows

    def read_first_rows(self, path: Path, count: int) -> "pa.Table":
        """Read rows from the start of a file, with all columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            first_batch = islice(file.iter_batches(count), 1)
            return pa.Table.from_batches(first_batch, file.schema_arrow)


class ArrowReader(ColumnarReader):
    """Arrow IPC in either form, stream or file, memory-mapped.

    Batches that are compressed (`lz4`, `zstd`) can't be mapped: they are decompressed as a whole,
    all columns, and have to fit in memory.
    """

    suffixes = (".arrow",)

    def column_names(self, path: Path) -> list[str]:
        """List the columns of a file."""
        return list(_open_arrow_file(path).schema.names)

    def read_table(self, path: Path, columns: Sequence[str]) -> "pa.Table":
        """Map a file and select some of its columns."""
        return _open_arrow_file(path).read_all().select(list(columns))

    def count_rows(self, path: Path) -> int:
        """Count the rows of a file."""
        return _open_arrow_file(path).read_all().num_rows

    def read_first_rows(self, path: Path, count: int) -> "pa.Table":
        """Read rows from the start of a file, with all columns."""
        return _open_arrow_file(path).read_all().slice(0, count)


def _iterate_parquet_batches(file: Any, schema: "pa.Schema") -> "Iterator[pa.RecordBatch]":
    """The rows of a parquet file in batches that are bounded in rows and decoded bytes."""
    import pyarrow as pa

    kept: list[pa.RecordBatch] = []
    size = 0
    for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=schema.names):
        kept.append(batch.select(schema.names))
        size += batch.nbytes
        if len(kept) * _PARQUET_BATCH_ROWS >= _MAX_BATCH_ROWS or size >= _MAX_BATCH_BYTES:
            yield from pa.Table.from_batches(kept).combine_chunks().to_batches()
            kept, size = [], 0
    if kept:
        yield from pa.Table.from_batches(kept).combine_chunks().to_batches()


def _open_arrow_file(path: Path) -> Any:
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)
