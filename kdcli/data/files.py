"""The columns of texts and labels in files on this disk."""

import re
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.data.rows import rows
from kdcli.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

KINDS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")

_HALF = re.compile("[\ud800-\udfff]")  # an escape may stand for half of a UTF-16 pair


def read(files: Sequence[Path], texts: Sequence[str], label: str | None) -> "Dataset":
    """The columns of texts and labels in one or several files, as one split.

    A cell of csv or tsv is text, whatever it looks like; only where all its labels are numbers
    are they numbers.

    Args:
        files: All parquet or none.
        texts: The texts' columns.
        label: The labels' column; None leaves them aside.

    Raises:
        DataError: A file can't be read, lacks a column, or holds something else than texts and
            labels; the message names file and line.
    """
    from datasets import Dataset

    keys = dict.fromkeys(texts, "text") | ({} if label is None else {label: "label"})
    try:
        table = _parquet(files, keys) if _is_parquet(files) else _text(files, keys)
        split = Dataset(table)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{files[0]} can't be read: {first_line(error)}", "Is it whole? Write it again."
        ) from error
    if not len(split):
        raise DataError(f"{files[0]} is empty: it holds no rows.")
    return split


def place(files: Sequence[Path], row: int) -> str:
    """Where the row of that number, counted from 0, stands: file and line, or file and row."""
    if not _is_parquet(files):
        return next(islice(chain.from_iterable(map(rows, files)), row, None))[0]
    import pyarrow.parquet as pq

    for file in files:
        count = pq.read_metadata(file).num_rows
        if row < count:
            return f"{file}, row {row + 1}"
        row -= count
    raise IndexError(row)


def no_column(key: str, column: str, where: object, known: Sequence[str]) -> DataError:
    """The error for a column that the recipe names by `key` and that isn't there."""
    return DataError(
        f"data.{key}: there is no column {column} in {where}.", f"Its columns: {', '.join(known)}."
    )


def first_line(error: BaseException) -> str:
    """What an error says first, as the end of a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:300] + "."


def _is_parquet(files: Sequence[Path]) -> bool:
    return files[0].suffix.lower() == ".parquet"


def _parquet(files: Sequence[Path], keys: dict[str, str]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path in files:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            for column, key in keys.items():
                if column not in known:
                    raise no_column(key, column, path, known)
                if known.count(column) > 1:
                    raise DataError(
                        f"{path}: the column {column} is there twice.", "Rename one of them."
                    )
            tables.append(file.read(columns=list(keys)))
    return pa.concat_tables(tables)


def _text(files: Sequence[Path], keys: dict[str, str]) -> "pa.Table":
    import pyarrow as pa

    cells: dict[str, list[Any]] = {column: [] for column in keys}
    for file in files:
        missing, known = set(keys), list[str]()
        for where, row in rows(file):
            known = known or list(row)
            missing -= row.keys()
            for column, key in keys.items():
                cells[column].append(_cell(row.get(column), column, key, where))
        if missing and known:
            column = next(column for column in keys if column in missing)
            raise no_column(keys[column], column, file, known)
    labels = _labels if "json" in files[0].suffix.lower() else _labels_from_text
    return pa.table(
        {
            column: pa.array(values, pa.string()) if keys[column] == "text" else labels(values)
            for column, values in cells.items()
        }
    )


def _cell(value: Any, column: str, key: str, where: str) -> Any:
    wanted, what = (str, "text") if key == "text" else ((str, int), "a name or a whole number")
    if value is not None and not isinstance(value, wanted):
        shown = repr(value)[:40]
        raise DataError(f"{where}: {column} is {shown}, not {what}.")
    if isinstance(value, str) and _HALF.search(value):
        raise DataError(f"{where}: {column} holds half a character.", "Delete the escape \\ud….")
    return value


def _labels(values: list[Any]) -> "pa.Array":
    """Whole numbers or truths, where that is all there is; names otherwise."""
    import pyarrow as pa

    kinds = {type(value) for value in values}
    if kinds in ({int}, {bool}) and all(-(2**63) <= value < 2**63 for value in values):
        return pa.array(values)
    return pa.array([None if v is None else str(v) for v in values], pa.string())


def _labels_from_text(values: list[str]) -> "pa.Array":
    import pyarrow as pa

    names = pa.array(values, pa.string())
    try:
        numbers = names.cast(pa.int64())
        # 007 is a name: its zeros count.
        return numbers if numbers.cast(pa.string()).equals(names) else names
    except pa.ArrowInvalid:
        pass
    try:
        return names.cast(pa.float64())
    except pa.ArrowInvalid:
        return names
