"""The columns of texts and labels in files on this disk."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.data import disk, sheets, tables
from kdcli.data.lines import COMPRESSIONS
from kdcli.data.rows import Row, has_decimal_comma, rows
from kdcli.errors import DataError, NoColumnError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_TEXTS = (".csv", ".tsv", ".jsonl", ".json")
KINDS = (*_TEXTS, *sheets.KINDS, *tables.KINDS)
KNOWN = f"{', '.join(KINDS)}; the first four also with {' or '.join(COMPRESSIONS)}."

# Rows that are read at a time, and characters in them, about.
_ROWS = 10_000
_CHARACTERS = 4_000_000
_NO_LABEL = "a name or a whole number"
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_WHOLE = re.compile(r"[-+]?\d+")
_HALF = re.compile("[\ud800-\udfff]")  # an escape may stand for half of a UTF-16 pair


def kind(path: Path) -> str | None:
    """A file's kind by its name, one of `KINDS`; None where it is of no known one."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if suffix in COMPRESSIONS:
        suffix = Path(name.removesuffix(suffix)).suffix
        return suffix if suffix in _TEXTS else None
    return suffix if suffix in KINDS else None


def holds_text_alone(path: Path) -> bool:
    """Whether every cell of such a file is text, numbers too."""
    return kind(path) in (".csv", ".tsv", *sheets.KINDS)


def read(
    files: Sequence[Path],
    texts: Sequence[str],
    labels: Sequence[str],
    notes: list[str] | None = None,
    *,
    numbers: bool = True,
) -> "Dataset":
    """The columns of texts and labels in one or several files, as one split.

    A cell of csv, tsv or xlsx is text, whatever it looks like; only where all its labels are
    numbers are they numbers.

    Args:
        files: All of one kind, compressed or not.
        texts: The texts' columns.
        labels: The labels' columns; none leaves them aside.
        notes: Gets what was recognised of how the files are written; see `kdcli.data.rows`.
        numbers: Whether labels such as 4,5 and 62.10 may be numbers, and not names.

    Raises:
        DataError: A file can't be read, lacks a column, or holds something else than texts and
            labels; the message names file and line.
    """
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint

    keys = dict.fromkeys(texts, "text") | dict.fromkeys(labels, "label")
    if other := next((file for file in files if kind(file) != kind(files[0])), None):
        raise DataError(
            f"{files[0]} and {other} are of two kinds, and can't be one split.",
            "Name the files that are meant: data.splits.",
        )
    try:
        table = (
            _tables(files, keys)
            if _has_columns(files[0])
            else _text(files, keys, [] if notes is None else notes, numbers=numbers)
        )
        # Otherwise `datasets` makes one of all that the table holds, in memory.
        split = Dataset(table, fingerprint=generate_random_fingerprint())
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(files[0], error) from error
    if not len(split):
        raise DataError(f"{files[0]} is empty: it holds no rows.")
    return split


def head(files: Sequence[Path], count: int, notes: list[str] | None = None) -> list[dict[str, Any]]:
    """The first rows, whole: all columns in each, None where a row lacks one.

    Args:
        files: All of one kind.
        count: How many rows.
        notes: Gets what was recognised of how the files are written.

    Raises:
        DataError: A file can't be read; the message names file and line.
    """
    try:
        if _has_columns(files[0]):
            return of_dataset(tables.head(files[0], count), count)
        found = [dict(row) for _, row in islice(_rows(files, notes), count)]
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(files[0], error) from error
    columns = dict.fromkeys(column for row in found for column in row)
    cells = {column: [row.get(column) for row in found] for column in columns}
    if any(map(has_decimal_comma, files)):
        cells = {column: _with_points(values) or values for column, values in cells.items()}
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def of_dataset(split: "Dataset", count: int) -> list[dict[str, Any]]:
    """The first rows of a data set, labels by their names."""
    kinds = {name: getattr(kind, "names", None) for name, kind in split.features.items()}
    return [
        {
            column: _name(cell, names) if (names := kinds[column]) else cell
            for column, cell in row.items()
        }
        for row in split.select(range(min(count, len(split)))).to_list()
    ]


def _name(cell: int | None, names: Sequence[str]) -> str | None:
    return None if cell in (None, -1) else names[cell]


def _rows(files: Sequence[Path], notes: list[str] | None = None) -> Iterator[Row]:
    return chain.from_iterable(rows(file, notes) for file in files)


def place(files: Sequence[Path], row: int) -> str:
    """Where the row of that number, counted from 0, stands: file and line, or file and row."""
    if not _has_columns(files[0]):
        return next(islice(_rows(files), row, None))[0]
    for file in files:
        count = tables.count(file)
        if row < count:
            return f"{file}, row {row + 1}"
        row -= count
    raise IndexError(row)


def first_line(error: BaseException) -> str:
    """What an error says first, as the end of a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:300] + "."


def _unreadable(file: Path, error: BaseException) -> DataError:
    return DataError(f"{file} can't be read: {first_line(error)}", "Is it whole? Write it again.")


def _has_columns(file: Path) -> bool:
    return kind(file) in tables.KINDS


def _tables(files: Sequence[Path], keys: dict[str, str]) -> "pa.Table":
    import pyarrow as pa

    return pa.concat_tables([tables.read(file, keys) for file in files])


def _text(
    files: Sequence[Path], keys: dict[str, str], notes: list[str], *, numbers: bool
) -> "pa.Table":
    import pyarrow as pa

    flat = holds_text_alone(files[0])
    labels = [column for column, key in keys.items() if key == "label"]
    lists = [] if flat else [column for column in labels if _holds_lists(files, column)]
    several = {column: pa.list_(pa.string()) for column in lists}
    schema = pa.schema([(column, several.get(column, pa.string())) for column in keys])
    kinds: dict[str, set[type]] = {column: set() for column in labels}
    table = disk.table(schema, _batches(files, keys, kinds, schema, notes))
    for column in labels if len(table) else ():
        _refuse_mixture(files, column, kinds[column])
        if numbers and any(map(has_decimal_comma, files)):
            table = _without_commas(table, column, notes)
        if column in lists:
            values = _typed_lists(table[column], kinds[column])
        else:
            values = _typed(table[column], kinds[column], from_text=flat, numbers=numbers)
        table = table.set_column(table.column_names.index(column), column, values)
    return table


def _holds_lists(files: Sequence[Path], column: str) -> bool:
    """Whether the first label that is there is a list: the others have to be likewise."""
    cells = (row.get(column) for _, row in _rows(files))
    return isinstance(next((cell for cell in cells if cell is not None), None), list)


def _batches(
    files: Sequence[Path],
    keys: dict[str, str],
    kinds: dict[str, set[type]],
    schema: "pa.Schema",
    notes: list[str],
) -> "Iterator[pa.RecordBatch]":
    """The rows, so many at a time; `kinds` is told those of each column of labels."""
    import pyarrow as pa

    lists = {field.name for field in schema if pa.types.is_list(field.type)}
    for file in files:
        missing, known = set(keys), list[str]()
        found = rows(file, notes)
        for piece in _pieces(found):
            known = known or list(piece[0][1])
            columns = []
            for column, key in keys.items():
                checked = _list_cell if column in lists else _cell
                cells = [checked(row.get(column), column, key, where) for where, row in piece]
                if column in missing and any(column in row for _, row in piece):
                    missing.discard(column)
                if column in lists:
                    kinds[column].update(type(item) for cell in cells for item in cell or ())
                    cells = [cell and [*map(str, cell)] for cell in cells]
                elif key == "label":
                    kinds[column].update(map(type, cells))
                    cells = [None if cell is None else str(cell) for cell in cells]
                columns.append(pa.array(cells, schema.field(column).type))
            yield pa.record_batch(columns, schema=schema)
        if missing and known:
            column = next(column for column in keys if column in missing)
            raise NoColumnError(keys[column], column, file, known)


def _pieces(found: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in lists, each bounded in rows and in characters."""
    piece: list[Row] = []
    characters = 0
    for where, row in found:
        piece.append((where, row))
        characters += sum(len(cell) for cell in row.values() if isinstance(cell, str))
        if len(piece) >= _ROWS or characters >= _CHARACTERS:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece


def _cell(value: Any, column: str, key: str, where: str) -> Any:
    wanted, what = (str, "text") if key == "text" else ((str, int, float), _NO_LABEL)
    if value is not None and not isinstance(value, wanted):
        raise DataError(f"{where}: {column} is {repr(value)[:40]}, not {what}.")
    if isinstance(value, str) and _HALF.search(value):
        raise DataError(f"{where}: {column} holds half a character.", "Delete the escape \\ud….")
    return value


def _list_cell(value: Any, column: str, key: str, where: str) -> Any:
    if value is None:
        return None
    # Fractions and truths are for lists of 0 and 1.
    kinds = {type(item) for item in value} if isinstance(value, list) else {None}
    if not (kinds <= {str, int} or kinds <= {int, float, bool}):
        shown = repr(value)[:40]
        raise DataError(f"{where}: {column} is {shown}, not a list of names or whole numbers.")
    return [
        float(item) if isinstance(item, bool) else _cell(item, column, key, where) for item in value
    ]


def _refuse_mixture(files: Sequence[Path], column: str, kinds: set[type]) -> None:
    """Fractions are scores: names and truths beside them are none."""
    if float not in kinds or kinds <= {int, float, type(None)}:
        return
    for where, row in _rows(files):
        if isinstance(row.get(column), float):
            raise DataError(f"{where}: {column} is {row[column]}, not {_NO_LABEL}.")


def _without_commas(table: "pa.Table", column: str, notes: list[str]) -> "pa.Table":
    """The table with a column of numbers such as 4,5 written as 4.5; others stay as they are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    distinct = pc.unique(table[column])
    names = distinct.to_pylist()
    changed = _with_points(names)
    if changed is None:
        return table
    first = next(name for name in names if name and "," in name)
    notes.append(f"{column}: the comma in {first} is a decimal comma.")
    places = pc.index_in(table[column], value_set=distinct)
    return table.set_column(
        table.column_names.index(column), column, pc.take(pa.array(changed, pa.string()), places)
    )


def _with_points(cells: Sequence[Any]) -> list[Any] | None:
    """Cells such as 4,5 as 4.5; None where none is so, or one is no number."""
    there = [cell for cell in cells if cell]
    if not any(_DECIMAL_COMMA.fullmatch(cell) for cell in there) or not all(
        _DECIMAL_COMMA.fullmatch(cell) or _WHOLE.fullmatch(cell) for cell in there
    ):
        return None
    return [cell and cell.replace(",", ".") for cell in cells]


def _typed(
    names: "pa.ChunkedArray", kinds: set[type], *, from_text: bool, numbers: bool
) -> "pa.ChunkedArray":
    """Labels as numbers or truths, where that is all there is; as names otherwise."""
    import pyarrow as pa
    import pyarrow.compute as pc

    distinct = pc.unique(names)
    typed = _from_text(distinct, numbers=numbers) if from_text else _of_kinds(distinct, kinds)
    if typed.type == pa.string():
        return names
    places = pc.index_in(names, value_set=distinct)
    return pa.chunked_array([typed.take(chunk) for chunk in places.chunks])


def _typed_lists(lists: "pa.ChunkedArray", kinds: set[type]) -> "pa.ChunkedArray":
    """Lists of labels, likewise."""
    import pyarrow as pa

    if not kinds or str in kinds:
        return lists
    return lists.cast(pa.list_(pa.int64() if kinds == {int} else pa.float64()))


def _of_kinds(names: "pa.Array", kinds: set[type]) -> "pa.Array":
    import pyarrow as pa

    numbers = {int: pa.int64(), bool: pa.bool_(), float: pa.float64()}
    (only,) = kinds if len(kinds) == 1 else (str,)
    only = float if float in kinds else only
    try:
        return names.cast(numbers[only]) if only in numbers else names
    except pa.ArrowInvalid:
        return names


def _from_text(names: "pa.Array", *, numbers: bool) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    written = pc.utf8_trim_whitespace(names)
    try:
        whole = written.cast(pa.int64())
        # 007 is a name: its zeros count.
        return whole if whole.cast(pa.string()).equals(written) else names
    except pa.ArrowInvalid:
        pass
    try:
        return written.cast(pa.float64()) if numbers else names
    except pa.ArrowInvalid:
        return names
