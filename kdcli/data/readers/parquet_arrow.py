"""The columns of parquet and Arrow files."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.data import mmap_tables
from kdcli.errors import DataError, MissingColumnError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

COLUMNAR_SUFFIXES = (".parquet", ".arrow")


# Parquet packs a text that repeats as often as it likes: few rows at a time bound what is decoded.
_PARQUET_BATCH_ROWS = 256
_MAX_BATCH_ROWS = 10_000
_MAX_BATCH_BYTES = 8_000_000


def read_columns(path: Path, column_roles: Mapping[str, str]) -> "pa.Table":
    """Some columns of a file.

    Args:
        path: Parquet, or Arrow in either of its forms (stream or file).
        column_roles: By column, what the recipe calls it: `text` or `label`.

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
            _check_columns(file.schema_arrow.names, column_roles, path)
            kept = [file.schema_arrow.field(column) for column in column_roles]
            schema = pa.schema(kept, file.schema_arrow.metadata)
            table = mmap_tables.collect_table(schema, _iterate_parquet_batches(file, schema))
    else:
        reader = _open_arrow_file(path)
        _check_columns(reader.schema.names, column_roles, path)
        table = reader.read_all().select(list(column_roles))
    # Arrow believes what a file says of itself: it would follow it out of its memory, and take
    # bytes for text that are none.
    table.validate(full=True)
    return table


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


def count_rows(path: Path) -> int:
    """The number of a file's rows."""
    if is_parquet(path):
        import pyarrow.parquet as pq

        return pq.read_metadata(path).num_rows
    return _open_arrow_file(path).read_all().num_rows


def read_first_rows_as_dataset(path: Path, count: int) -> "Dataset":
    """The first rows of a file, all columns."""
    import pyarrow as pa
    from datasets import Dataset

    if is_parquet(path):
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            first = islice(file.iter_batches(count), 1)
            return Dataset(pa.Table.from_batches(first, file.schema_arrow))
    return Dataset(_open_arrow_file(path).read_all().slice(0, count))


def is_parquet(path: Path) -> bool:
    """Whether a file of columns is parquet."""
    return path.suffix.lower() == ".parquet"


def _check_columns(
    available_columns: Sequence[str], column_roles: Mapping[str, str], path: Path
) -> None:
    for column, key in column_roles.items():
        if column not in available_columns:
            raise MissingColumnError(key, column, path, available_columns)
        if list(available_columns).count(column) > 1:
            raise DataError(f"{path}: the column {column} is there twice.", "Rename one of them.")


def _open_arrow_file(path: Path) -> Any:
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)
