"""Columns of texts and labels from data files of any format."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.data import mmap_tables
from kdcli.data.readers import label_types
from kdcli.data.readers.base import ColumnarReader, LocatedRow, RowReader
from kdcli.data.readers.registry import file_format, file_reader
from kdcli.errors import DataError, MissingColumnError, first_message_line

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

# Limits of a batch of rows.
_MAX_BATCH_ROWS = 10_000
_MAX_BATCH_CHARACTERS = 4_000_000
_EXPECTED_LABEL = "a name or a whole number"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # an escape may stand for half of a UTF-16 pair


def stores_all_cells_as_text(path: Path) -> bool:
    """Return whether every cell of a file in this format is text, numbers too."""
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
    """Read the columns of texts and labels from one or several files, as one split.

    Cells of csv, tsv and xlsx are text; a label column becomes numbers if all its cells are.

    Args:
        files: Files of one format, compressed or not.
        text_columns: The text columns.
        label_columns: The label columns; may be empty.
        notes: Gets a sentence for each finding about how the files are written.
        parse_fractions: Whether labels such as 4,5 and 62.10 may be numbers instead of names.

    Raises:
        DataError: A file can't be read, lacks a column, or has cells that are no text or label;
            the message names file and line.
    """
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint

    roles = dict.fromkeys(text_columns, "text") | dict.fromkeys(label_columns, "label")
    if odd_file := next(
        (file for file in files if file_format(file) != file_format(files[0])), None
    ):
        raise DataError(
            f"{files[0]} and {odd_file} have two formats, and can't be one split.",
            "Name the files that are meant: data.splits.",
        )
    reader = file_reader(files[0])
    try:
        table = (
            _read_columnar_files(reader, files, roles)
            if isinstance(reader, ColumnarReader)
            else _read_row_files(
                files, roles, [] if notes is None else notes, parse_fractions=parse_fractions
            )
        )
        # Without a fingerprint, `datasets` would hash the whole table, in memory.
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
    """Read the first rows with all columns; None where a row lacks a column.

    Args:
        files: Files of one format.
        count: The number of rows.
        notes: Gets a sentence for each finding about how the files are written.

    Raises:
        DataError: A file can't be read; the message names file and line.
    """
    from datasets import Dataset

    try:
        reader = file_reader(files[0])
        if isinstance(reader, ColumnarReader):
            return first_dataset_rows(Dataset(reader.read_first_rows(files[0], count)), count)
        rows = [dict(row) for _, row in islice(_iterate_files_rows(files, notes), count)]
    except DataError:
        raise
    except Exception as error:
        raise _unreadable_file_error(files[0], error) from error
    columns = dict.fromkeys(column for row in rows for column in row)
    cells = {column: [row.get(column) for row in rows] for column in columns}
    if _any_decimal_comma(files):
        cells = {
            column: label_types.replace_decimal_commas(values) or values
            for column, values in cells.items()
        }
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def first_dataset_rows(split: "Dataset", count: int) -> list[dict[str, Any]]:
    """The first rows of a dataset, with ClassLabels as names."""
    label_names = {name: getattr(kind, "names", None) for name, kind in split.features.items()}
    return [
        {
            column: _class_label_name(cell, names) if (names := label_names[column]) else cell
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
    """Describe where a row stands, by its index from 0: file and line, or file and row."""
    reader = file_reader(files[0])
    if not isinstance(reader, ColumnarReader):
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
        raise TypeError(f"{type(reader).__name__} is neither a RowReader nor a ColumnarReader.")
    return reader


def _any_decimal_comma(files: Sequence[Path]) -> bool:
    return any(_row_reader(file).has_decimal_comma(file) for file in files)


def _read_columnar_files(
    reader: ColumnarReader, files: Sequence[Path], column_roles: Mapping[str, str]
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

    cells_are_text = stores_all_cells_as_text(files[0])
    labels = [column for column, key in column_roles.items() if key == "label"]
    lists = (
        [] if cells_are_text else [column for column in labels if _has_list_labels(files, column)]
    )
    list_types = {column: pa.list_(pa.string()) for column in lists}
    schema = pa.schema([(column, list_types.get(column, pa.string())) for column in column_roles])
    python_types: dict[str, set[type]] = {column: set() for column in labels}
    table = mmap_tables.collect_table(
        schema, _iterate_record_batches(files, column_roles, python_types, schema, notes)
    )
    for column in labels if len(table) else ():
        _check_no_mixed_labels(files, column, python_types[column])
        if parse_fractions and _any_decimal_comma(files):
            table = label_types.convert_decimal_commas(table, column, notes)
        if column in lists:
            values = label_types.cast_numeric_label_lists(table[column], python_types[column])
        else:
            values = label_types.cast_labels_if_numeric(
                table[column],
                python_types[column],
                from_text=cells_are_text,
                parse_fractions=parse_fractions,
            )
        table = table.set_column(table.column_names.index(column), column, values)
    return table


def _has_list_labels(files: Sequence[Path], column: str) -> bool:
    """Return whether the first label in a column is a list; then all have to be lists."""
    cells = (row.get(column) for _, row in _iterate_files_rows(files))
    return isinstance(next((cell for cell in cells if cell is not None), None), list)


def _iterate_record_batches(
    files: Sequence[Path],
    column_roles: dict[str, str],
    types_by_column: dict[str, set[type]],
    schema: "pa.Schema",
    notes: list[str],
) -> "Iterator[pa.RecordBatch]":
    """Read rows in batches; collects the Python types of label columns in `types_by_column`."""
    import pyarrow as pa

    lists = {field.name for field in schema if pa.types.is_list(field.type)}
    for file in files:
        missing, known = set(column_roles), list[str]()
        for batch in _group_rows(_row_reader(file).iterate_rows(file, notes)):
            known = known or list(batch[0][1])
            columns = []
            for column, key in column_roles.items():
                checked = _validate_list_cell if column in lists else _validate_cell
                cells = [checked(row.get(column), column, key, where) for where, row in batch]
                if column in missing and any(column in row for _, row in batch):
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
    """Group rows in batches that are bounded in rows and characters."""
    batch: list[LocatedRow] = []
    characters = 0
    for where, row in located_rows:
        batch.append((where, row))
        characters += sum(len(cell) for cell in row.values() if isinstance(cell, str))
        if len(batch) >= _MAX_BATCH_ROWS or characters >= _MAX_BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


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
    # Fractions and booleans are for multi-hot lists.
    kinds = {type(item) for item in value} if isinstance(value, list) else {None}
    if not (kinds <= {str, int} or kinds <= {int, float, bool}):
        shown = repr(value)[:40]
        raise DataError(f"{location}: {column} is {shown}, not a list of names or whole numbers.")
    return [
        float(item) if isinstance(item, bool) else _validate_cell(item, column, role, location)
        for item in value
    ]


def _check_no_mixed_labels(files: Sequence[Path], column: str, python_types: set[type]) -> None:
    """Refuse fractions in a column that has names or booleans too."""
    if float not in python_types or python_types <= {int, float, type(None)}:
        return
    for where, row in _iterate_files_rows(files):
        if isinstance(row.get(column), float):
            raise DataError(f"{where}: {column} is {row[column]}, not {_EXPECTED_LABEL}.")
