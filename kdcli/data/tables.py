"""The columns of parquet and Arrow files."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.data import disk
from kdcli.errors import DataError, NoColumnError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

KINDS = (".parquet", ".arrow")


# Parquet packs a text that repeats as often as it likes: few rows at a time bound what is decoded.
_ROWS = 256
_TOGETHER = 10_000
_BYTES = 8_000_000


def read(path: Path, keys: Mapping[str, str]) -> "pa.Table":
    """Some columns of a file.

    Args:
        path: Parquet, or Arrow in either of its forms (stream or file).
        keys: By column, what the recipe calls it: `text` or `label`.

    Returns:
        Of parquet, in memory or mapped from a file: see `kdcli.data.disk.table`. Arrow is mapped.

    Raises:
        DataError: A column is missing, or there twice.
        pyarrow.ArrowInvalid: What is in them isn't what the file says.
    """
    import pyarrow as pa

    if is_parquet(path):
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            _refuse_columns(file.schema_arrow.names, keys, path)
            kept = [file.schema_arrow.field(column) for column in keys]
            schema = pa.schema(kept, file.schema_arrow.metadata)
            table = disk.table(schema, _batches(file, schema))
    else:
        reader = _arrow(path)
        _refuse_columns(reader.schema.names, keys, path)
        table = reader.read_all().select(list(keys))
    # Arrow believes what a file says of itself: it would follow it out of its memory, and take
    # bytes for text that are none.
    table.validate(full=True)
    return table


def _batches(file: Any, schema: "pa.Schema") -> "Iterator[pa.RecordBatch]":
    """The rows of a parquet file in batches that are bounded in rows and decoded bytes."""
    import pyarrow as pa

    kept: list[pa.RecordBatch] = []
    size = 0
    for batch in file.iter_batches(_ROWS, columns=schema.names):
        kept.append(batch.select(schema.names))
        size += batch.nbytes
        if len(kept) * _ROWS >= _TOGETHER or size >= _BYTES:
            yield from pa.Table.from_batches(kept).combine_chunks().to_batches()
            kept, size = [], 0
    if kept:
        yield from pa.Table.from_batches(kept).combine_chunks().to_batches()


def count(path: Path) -> int:
    """The number of a file's rows."""
    if is_parquet(path):
        import pyarrow.parquet as pq

        return pq.read_metadata(path).num_rows
    return _arrow(path).read_all().num_rows


def head(path: Path, rows: int) -> "Dataset":
    """The first rows of a file, all columns."""
    import pyarrow as pa
    from datasets import Dataset

    if is_parquet(path):
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            first = islice(file.iter_batches(rows), 1)
            return Dataset(pa.Table.from_batches(first, file.schema_arrow))
    return Dataset(_arrow(path).read_all().slice(0, rows))


def is_parquet(path: Path) -> bool:
    """Whether a file of columns is parquet."""
    return path.suffix.lower() == ".parquet"


def _refuse_columns(known: Sequence[str], keys: Mapping[str, str], path: Path) -> None:
    for column, key in keys.items():
        if column not in known:
            raise NoColumnError(key, column, path, known)
        if list(known).count(column) > 1:
            raise DataError(f"{path}: the column {column} is there twice.", "Rename one of them.")


def _arrow(path: Path) -> Any:
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)
