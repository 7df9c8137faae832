"""The columns of texts and labels in files on this disk."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.data import mmap_tables
from kdcli.data.readers import label_types
from kdcli.data.readers.base import ColumnReader, LocatedRow, RowReader
from kdcli.data.readers.registry import file_format, file_reader
from kdcli.errors import DataError, MissingColumnError, first_message_line

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

# Rows that are read at a time, and characters in them, about.
_MAX_BATCH_ROWS = 10_000
_MAX_BATCH_CHARACTERS = 4_000_000
_EXPECTED_LABEL = "a name or a whole number"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # an escape may stand for half of a UTF-16 pair


def stores_all_cells_as_text(path: Path) -> bool:
    """Whether every cell of such a file is text, numbers too."""
    reader = file_reader(path)
    return isinstance(reader, RowReader) and reader.cells_are_text


def read_text_and_label_columns(
    files: Sequence[Path],
    text_columns: Sequence[str],
    label_columns: Sequence[str],
    notes: list[str] | None = None,
    *,
    parse_fractions: bool = True,
) -> "Dataset":
    """The columns of texts and labels in one or several files, as one split.

    A cell of csv, tsv or xlsx is text, whatever it looks like; only where all its labels are
    numbers are they numbers.

    Args:
        files: All of one kind, compressed or not.
        text_columns: The texts' columns.
        label_columns: The labels' columns; none leaves them aside.
        notes: Gets what was recognised of how the files are written; see `kdcli.data.rows`.
        parse_fractions: Whether labels such as 4,5 and 62.10 may be numbers, and not names.

    Raises:
        DataError: A file can't be read, lacks a column, or holds something else than texts and
            labels; the message names file and line.
    """
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint

    keys = dict.fromkeys(text_columns, "text") | dict.fromkeys(label_columns, "label")
    if other := next((file for file in files if file_format(file) != file_format(files[0])), None):
        raise DataError(
            f"{files[0]} and {other} are of two kinds, and can't be one split.",
            "Name the files that are meant: data.splits.",
        )
    reader = file_reader(files[0])
    try:
        table = (
            _read_columnar_files(reader, files, keys)
            if isinstance(reader, ColumnReader)
            else _read_row_files(
                files, keys, [] if notes is None else notes, parse_fractions=parse_fractions
            )
        )
        # Otherwise `datasets` makes one of all that the table holds, in memory.
        split = Dataset(table, fingerprint=generate_random_fingerprint())
    except DataError:
        raise
    except Exception as error:
        raise _unreadable_file_error(files[0], error) from error
    if not len(split):
        raise DataError(f"{files[0]} is empty: it holds no rows.")
    return split


def read_first_rows(
    files: Sequence[Path], count: int, notes: list[str] | None = None
) -> list[dict[str, Any]]:
    """The first rows, whole: all columns in each, None where a row lacks one.

    Args:
        files: All of one kind.
        count: How many rows.
        notes: Gets what was recognised of how the files are written.

    Raises:
        DataError: A file can't be read; the message names file and line.
    """
    from datasets import Dataset

    try:
        reader = file_reader(files[0])
        if isinstance(reader, ColumnReader):
            return first_dataset_rows(Dataset(reader.read_first_rows(files[0], count)), count)
        found = [dict(row) for _, row in islice(_iterate_files_rows(files, notes), count)]
    except DataError:
        raise
    except Exception as error:
        raise _unreadable_file_error(files[0], error) from error
    columns = dict.fromkeys(column for row in found for column in row)
    cells = {column: [row.get(column) for row in found] for column in columns}
    if _any_decimal_comma(files):
        cells = {
            column: label_types.replace_decimal_commas(values) or values
            for column, values in cells.items()
        }
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def first_dataset_rows(split: "Dataset", count: int) -> list[dict[str, Any]]:
    """The first rows of a data set, labels by their names."""
    kinds = {name: getattr(kind, "names", None) for name, kind in split.features.items()}
    return [
        {
            column: _class_label_name(cell, names) if (names := kinds[column]) else cell
            for column, cell in row.items()
        }
        for row in split.select(range(min(count, len(split)))).to_list()
    ]


def _class_label_name(cell: int | None, label_names: Sequence[str]) -> str | None:
    return None if cell in (None, -1) else label_names[cell]


def _iterate_files_rows(
    files: Sequence[Path], notes: list[str] | None = None
) -> Iterator[LocatedRow]:
    notes = [] if notes is None else notes
    return chain.from_iterable(_row_reader(file).iterate_rows(file, notes) for file in files)


def describe_row_location(files: Sequence[Path], row: int) -> str:
    """Where the row of that number, counted from 0, stands: file and line, or file and row."""
    reader = file_reader(files[0])
    if not isinstance(reader, ColumnReader):
        return next(islice(_iterate_files_rows(files), row, None))[0]
    for file in files:
        count = reader.count_rows(file)
        if row < count:
            return f"{file}, row {row + 1}"
        row -= count
    raise IndexError(row)


def _unreadable_file_error(file: Path, error: BaseException) -> DataError:
    return DataError(
        f"{file} can't be read: {first_message_line(error)}", "Is it whole? Write it again."
    )


def _row_reader(file: Path) -> RowReader:
    reader = file_reader(file)
    if not isinstance(reader, RowReader):
        raise TypeError(f"{type(reader).__name__} is neither a RowReader nor a ColumnReader.")
    return reader


def _any_decimal_comma(files: Sequence[Path]) -> bool:
    return any(_row_reader(file).has_decimal_comma(file) for file in files)


def _read_columnar_files(
    reader: ColumnReader, files: Sequence[Path], column_roles: Mapping[str, str]
) -> "pa.Table":
    import pyarrow as pa

    tables = []
    for file in files:
        _check_columns(reader.column_names(file), column_roles, file)
        tables.append(reader.read_table(file, [*column_roles]))
        # Arrow believes what a file says of itself: it would follow it out of its memory, and take
        # bytes for text that are none.
        tables[-1].validate(full=True)
    return pa.concat_tables(tables)


def _check_columns(
    available_columns: Sequence[str], column_roles: Mapping[str, str], path: Path
) -> None:
    for column, key in column_roles.items():
        if column not in available_columns:
            raise MissingColumnError(key, column, path, available_columns)
        if list(available_columns).count(column) > 1:
            raise DataError(f"{path}: the column {column} is there twice.", "Rename one of them.")


def _read_row_files(
    files: Sequence[Path], column_roles: dict[str, str], notes: list[str], *, parse_fractions: bool
) -> "pa.Table":
    import pyarrow as pa

    flat = stores_all_cells_as_text(files[0])
    labels = [column for column, key in column_roles.items() if key == "label"]
    lists = [] if flat else [column for column in labels if _has_list_labels(files, column)]
    several = {column: pa.list_(pa.string()) for column in lists}
    schema = pa.schema([(column, several.get(column, pa.string())) for column in column_roles])
    kinds: dict[str, set[type]] = {column: set() for column in labels}
    table = mmap_tables.collect_table(
        schema, _iterate_record_batches(files, column_roles, kinds, schema, notes)
    )
    for column in labels if len(table) else ():
        _check_no_mixed_labels(files, column, kinds[column])
        if parse_fractions and _any_decimal_comma(files):
            table = label_types.convert_decimal_commas(table, column, notes)
        if column in lists:
            values = label_types.cast_label_lists(table[column], kinds[column])
        else:
            values = label_types.infer_label_type(
                table[column], kinds[column], from_text=flat, parse_fractions=parse_fractions
            )
        table = table.set_column(table.column_names.index(column), column, values)
    return table


def _has_list_labels(files: Sequence[Path], column: str) -> bool:
    """Whether the first label that is there is a list: the others have to be likewise."""
    cells = (row.get(column) for _, row in _iterate_files_rows(files))
    return isinstance(next((cell for cell in cells if cell is not None), None), list)


def _iterate_record_batches(
    files: Sequence[Path],
    column_roles: dict[str, str],
    types_by_column: dict[str, set[type]],
    schema: "pa.Schema",
    notes: list[str],
) -> "Iterator[pa.RecordBatch]":
    """The rows, so many at a time; `types_by_column` is told those of each column of labels."""
    import pyarrow as pa

    lists = {field.name for field in schema if pa.types.is_list(field.type)}
    for file in files:
        missing, known = set(column_roles), list[str]()
        found = _row_reader(file).iterate_rows(file, notes)
        for piece in _group_rows(found):
            known = known or list(piece[0][1])
            columns = []
            for column, key in column_roles.items():
                checked = _validate_list_cell if column in lists else _validate_cell
                cells = [checked(row.get(column), column, key, where) for where, row in piece]
                if column in missing and any(column in row for _, row in piece):
                    missing.discard(column)
                if column in lists:
                    types_by_column[column].update(
                        type(item) for cell in cells for item in cell or ()
                    )
                    cells = [cell and [*map(str, cell)] for cell in cells]
                elif key == "label":
                    types_by_column[column].update(map(type, cells))
                    cells = [None if cell is None else str(cell) for cell in cells]
                columns.append(pa.array(cells, schema.field(column).type))
            yield pa.record_batch(columns, schema=schema)
        if missing and known:
            column = next(column for column in column_roles if column in missing)
            raise MissingColumnError(column_roles[column], column, file, known)


def _group_rows(located_rows: Iterable[LocatedRow]) -> Iterator[list[LocatedRow]]:
    """Rows in lists, each bounded in rows and in characters."""
    piece: list[LocatedRow] = []
    characters = 0
    for where, row in located_rows:
        piece.append((where, row))
        characters += sum(len(cell) for cell in row.values() if isinstance(cell, str))
        if len(piece) >= _MAX_BATCH_ROWS or characters >= _MAX_BATCH_CHARACTERS:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece


def _validate_cell(value: Any, column: str, role: str, location: str) -> Any:
    wanted, what = (str, "text") if role == "text" else ((str, int, float), _EXPECTED_LABEL)
    if value is not None and not isinstance(value, wanted):
        raise DataError(f"{location}: {column} is {repr(value)[:40]}, not {what}.")
    if isinstance(value, str) and _LONE_SURROGATE.search(value):
        raise DataError(f"{location}: {column} holds half a character.", "Delete the escape \\ud….")
    return value


def _validate_list_cell(value: Any, column: str, role: str, location: str) -> Any:
    if value is None:
        return None
    # Fractions and truths are for lists of 0 and 1.
    kinds = {type(item) for item in value} if isinstance(value, list) else {None}
    if not (kinds <= {str, int} or kinds <= {int, float, bool}):
        shown = repr(value)[:40]
        raise DataError(f"{location}: {column} is {shown}, not a list of names or whole numbers.")
    return [
        float(item) if isinstance(item, bool) else _validate_cell(item, column, role, location)
        for item in value
    ]


def _check_no_mixed_labels(files: Sequence[Path], column: str, python_types: set[type]) -> None:
    """Fractions are scores: names and truths beside them are none."""
    if float not in python_types or python_types <= {int, float, type(None)}:
        return
    for where, row in _iterate_files_rows(files):
        if isinstance(row.get(column), float):
            raise DataError(f"{where}: {column} is {row[column]}, not {_EXPECTED_LABEL}.")
