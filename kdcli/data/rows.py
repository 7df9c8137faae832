"""The rows of a csv, tsv, jsonl, json or xlsx file, each with the place that it stands in.

A file may be compressed: its lines are counted as they are within.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from kdcli.data import dialect, sheets
from kdcli.data.lines import COMPRESSIONS, encoding, lines
from kdcli.errors import DataError

Row = tuple[str, Mapping[str, Any]]  # its place, and its cells by column

_OBJECTS = 'A row is an object such as {"text": "…", "label": "…"}.'


def rows(path: Path, notes: list[str] | None = None) -> Iterator[Row]:
    """The rows of a text file, in order; blank lines are none.

    Args:
        path: The file, of a kind that `kdcli.data.files` knows.
        notes: Gets a sentence for each way in which the file is not written plainly, and for
            quoted cells that rows may be lost in; complete when the last row was read.

    Raises:
        DataError: A line is broken; the message names it.
    """
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    notes = [] if notes is None else notes
    if name.suffix.lower() in dialect.SEPARATORS:
        return _records(path, notes)
    return _cells(path) if name.suffix.lower() in sheets.KINDS else _objects(path)


def has_decimal_comma(path: Path) -> bool:
    """Whether numbers in the file may be written as 4,5."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return name.suffix.lower() in dialect.SEPARATORS and dialect.recognise(path).decimal_comma


def _records(path: Path, notes: list[str]) -> Iterator[Row]:
    written = dialect.recognise(path)
    notes.extend(written.notes)
    raw: list[str] = []
    found = _remembered(islice(lines(path, written.encoding), written.before, None), raw)
    reader = csv.reader(
        found,
        delimiter=written.separator,
        quoting=csv.QUOTE_MINIMAL if written.quoted else csv.QUOTE_NONE,
        strict=True,
    )
    header: list[str] | None = None
    long: list[str] = []
    while True:
        # A record may go over several lines: what counts is where it begins.
        where = f"{path}:{reader.line_num + written.before + 1}"
        raw.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{where}: the quotes don't match ({error}).",
                'Write " within a cell twice, and " around it.',
            ) from error
        if cells is None:
            break
        if not cells:
            continue
        header = header or cells
        if len(raw) > 1 and _may_hold_rows(cells, raw, len(header), written.separator):
            long.append(f"{where}: a quoted cell goes over {len(raw)} lines")
        if header is cells:
            _refuse_twice(header, where)
        elif len(cells) != len(header):
            raise DataError(
                f"{where}: the number of cells is {len(cells)}, and the header's {len(header)}.",
                'Write " around a cell that holds the delimiter.',
            )
        else:
            yield where, dict(zip(header, cells, strict=True))
    if long:
        more = f" So do {len(long) - 1:,} more." if len(long) > 1 else ""
        notes.append(
            f"{long[0]} that look like rows.{more} If its quotation mark is text, these rows are "
            'lost: write it twice, and " around the cell.'
        )


def _remembered(found: Iterable[str], raw: list[str]) -> Iterator[str]:
    for line in found:
        raw.append(line)
        yield line


def _may_hold_rows(cells: Sequence[str], raw: Sequence[str], count: int, separator: str) -> bool:
    """Whether the lines of a record may be rows that a stray quotation mark made one cell of.

    Few texts have tabs; commas, all have: there, each line has to be as a row is.
    """
    if count < 2:
        return False
    if separator == "\t":
        return any("\t" in cell and ("\n" in cell or "\r" in cell) for cell in cells)
    return all(line.count(separator) == count - 1 for line in raw if line.strip())


def _cells(path: Path) -> Iterator[Row]:
    header: list[str] | None = None
    for number, cells in sheets.rows(path):
        where = f"{path}, row {number}"
        if header is None:
            header = cells
            _refuse_twice(header, where)
        elif len(cells) > len(header):
            raise DataError(
                f"{where}: the number of cells is {len(cells)}, and the header's {len(header)}.",
                "Name every column in the first row.",
            )
        else:
            yield where, dict(zip_longest(header, cells, fillvalue=""))


def _refuse_twice(cells: Sequence[str], where: str) -> None:
    twice = next((name for name in cells if name and cells.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: the column {twice} is there twice.", "Rename one of them.")


def _objects(path: Path) -> Iterator[Row]:
    numbered = enumerate(lines(path, encoding(path)), start=1)
    first = True
    for number, line in numbered:
        if not line.strip():
            continue
        if first and line.lstrip().startswith("["):
            # One list of all rows, over all lines.
            items = _parsed(line + "".join(more for _, more in numbered), path, number)
            for i, item in enumerate(items, start=1):
                yield _row(item, f"{path}, item {i}")
            return
        first = False
        yield _row(_parsed(line.rstrip(), path, number), f"{path}:{number}")


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: is no JSON object.", _OBJECTS)
    return where, value


def _parsed(text: str, path: Path, line: int) -> Any:
    """The JSON value that begins in that line."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"{path}:{line + error.lineno - 1}"
        reason = error.msg.removesuffix(" at").removesuffix(" starting")
        raise DataError(f"{where}: is not JSON: {reason}.", _OBJECTS) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{line}: can't be read: {error}.") from error


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice} is there twice")
    return found
