"""The rows of a csv, tsv, jsonl, json or xlsx file, each with the place that it stands in.

A file may be compressed: its lines are counted as they are within.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from kdcli.data.readers import csv_dialect, excel
from kdcli.data.readers.text_lines import COMPRESSIONS, detect_bom_encoding, iterate_lines
from kdcli.errors import DataError

LocatedRow = tuple[str, Mapping[str, Any]]  # its place, and its cells by column

_JSON_ROW_HINT = 'A row is an object such as {"text": "…", "label": "…"}.'


def iterate_rows(path: Path, notes: list[str] | None = None) -> Iterator[LocatedRow]:
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
    if name.suffix.lower() in csv_dialect.DELIMITERS_BY_SUFFIX:
        return _iterate_csv_rows(path, notes)
    return (
        _iterate_excel_rows(path)
        if name.suffix.lower() in excel.EXCEL_SUFFIXES
        else _iterate_json_rows(path)
    )


def has_decimal_comma(path: Path) -> bool:
    """Whether numbers in the file may be written as 4,5."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return (
        name.suffix.lower() in csv_dialect.DELIMITERS_BY_SUFFIX
        and csv_dialect.detect_csv_dialect(path).decimal_comma
    )


def _iterate_csv_rows(path: Path, notes: list[str]) -> Iterator[LocatedRow]:
    written = csv_dialect.detect_csv_dialect(path)
    notes.extend(written.notes)
    raw: list[str] = []
    found = _record_lines(
        islice(iterate_lines(path, written.encoding), written.skipped_lines, None), raw
    )
    reader = csv.reader(
        found,
        delimiter=written.delimiter,
        quoting=csv.QUOTE_MINIMAL if written.uses_quoting else csv.QUOTE_NONE,
        strict=True,
    )
    header: list[str] | None = None
    long: list[str] = []
    while True:
        # A record may go over several lines: what counts is where it begins.
        where = f"{path}:{reader.line_num + written.skipped_lines + 1}"
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
        if len(raw) > 1 and _may_swallow_rows(cells, raw, len(header), written.delimiter):
            long.append(f"{where}: a quoted cell goes over {len(raw)} lines")
        if header is cells:
            _check_unique_columns(header, where)
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


def _record_lines(lines_of_file: Iterable[str], recorded: list[str]) -> Iterator[str]:
    for line in lines_of_file:
        recorded.append(line)
        yield line


def _may_swallow_rows(
    cells: Sequence[str], lines_of_record: Sequence[str], column_count: int, delimiter: str
) -> bool:
    """Whether the lines of a record may be rows that a stray quotation mark made one cell of.

    Few texts have tabs; commas, all have: there, each line has to be as a row is.
    """
    if column_count < 2:
        return False
    if delimiter == "\t":
        return any("\t" in cell and ("\n" in cell or "\r" in cell) for cell in cells)
    return all(
        line.count(delimiter) == column_count - 1 for line in lines_of_record if line.strip()
    )


def _iterate_excel_rows(path: Path) -> Iterator[LocatedRow]:
    header: list[str] | None = None
    for number, cells in excel.iterate_sheet_rows(path):
        where = f"{path}, row {number}"
        if header is None:
            header = cells
            _check_unique_columns(header, where)
        elif len(cells) > len(header):
            raise DataError(
                f"{where}: the number of cells is {len(cells)}, and the header's {len(header)}.",
                "Name every column in the first row.",
            )
        else:
            yield where, dict(zip_longest(header, cells, fillvalue=""))


def _check_unique_columns(cells: Sequence[str], location: str) -> None:
    twice = next((name for name in cells if name and cells.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{location}: the column {twice} is there twice.", "Rename one of them.")


def _iterate_json_rows(path: Path) -> Iterator[LocatedRow]:
    numbered = enumerate(iterate_lines(path, detect_bom_encoding(path)), start=1)
    first = True
    for number, line in numbered:
        if not line.strip():
            continue
        if first and line.lstrip().startswith("["):
            # One list of all rows, over all lines.
            items = _parse_json(line + "".join(more for _, more in numbered), path, number)
            for i, item in enumerate(items, start=1):
                yield _validate_json_row(item, f"{path}, item {i}")
            return
        first = False
        yield _validate_json_row(_parse_json(line.rstrip(), path, number), f"{path}:{number}")


def _validate_json_row(value: Any, location: str) -> LocatedRow:
    if not isinstance(value, dict):
        raise DataError(f"{location}: is no JSON object.", _JSON_ROW_HINT)
    return location, value


def _parse_json(text: str, path: Path, line: int) -> Any:
    """The JSON value that begins in that line."""
    try:
        return json.loads(text, object_pairs_hook=_reject_duplicate_keys)
    except json.JSONDecodeError as error:
        where = f"{path}:{line + error.lineno - 1}"
        reason = error.msg.removesuffix(" at").removesuffix(" starting")
        raise DataError(f"{where}: is not JSON: {reason}.", _JSON_ROW_HINT) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{line}: can't be read: {error}.") from error


def _reject_duplicate_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice} is there twice")
    return found
