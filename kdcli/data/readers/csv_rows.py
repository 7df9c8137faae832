"""Rows of csv and tsv files, each with the file and line that it begins in."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from kdcli.data.readers.base import BadRowHandler, LocatedRow, RowReader, report_bad_row
from kdcli.data.readers.csv_dialect import DELIMITERS_BY_SUFFIX, detect_csv_dialect
from kdcli.data.readers.text_lines import iterate_lines
from kdcli.errors import DataError


class CsvReader(RowReader):
    """csv and tsv in any dialect that `csv_dialect` recognises; every cell is text."""

    suffixes = tuple(DELIMITERS_BY_SUFFIX)
    compressible = True
    cells_are_text = True

    def iterate_rows(
        self, path: Path, notes: list[str], on_bad_row: BadRowHandler | None = None
    ) -> Iterator[LocatedRow]:
        """Iterate over the rows; blank lines are skipped.

        The notes name a dialect that is not the plain one, and quoted cells that may have swallowed
        rows; they are complete when the last row was read.
        """
        return _iterate_csv_rows(path, notes, on_bad_row)

    def has_decimal_comma(self, path: Path) -> bool:
        """Return whether numbers may be written as 4,5: the comma is no delimiter."""
        return detect_csv_dialect(path).decimal_comma


def check_unique_columns(cells: Sequence[str], location: str) -> None:
    """Refuse a header that names a column twice.

    Raises:
        DataError: It does; the message names the column.
    """
    duplicate = next((name for name in cells if name and cells.count(name) > 1), None)
    if duplicate is not None:
        raise DataError(
            f"{location}: the column {duplicate} is there twice.", "Rename one of them."
        )


def _iterate_csv_rows(
    path: Path, notes: list[str], on_bad_row: BadRowHandler | None
) -> Iterator[LocatedRow]:
    dialect = detect_csv_dialect(path)
    notes.extend(dialect.notes)
    raw: list[str] = []
    lines = _record_lines(
        islice(iterate_lines(path, dialect.encoding), dialect.skipped_lines, None), raw
    )
    reader = csv.reader(
        lines,
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.uses_quoting else csv.QUOTE_NONE,
        strict=True,
    )
    header: list[str] | None = None
    multi_line_cells: list[str] = []
    while True:
        # A record may span several lines; the first one is reported.
        location = f"{path}:{reader.line_num + dialect.skipped_lines + 1}"
        raw.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            fault = DataError(
                f"{location}: the quotes don't match ({error}).",
                'Write " within a cell twice, and " around it.',
            )
            fault.__cause__ = error
            report_bad_row(fault, on_bad_row)
            continue
        if cells is None:
            break
        if not cells:
            continue
        header = header or cells
        if len(raw) > 1 and _may_swallow_rows(cells, raw, len(header), dialect.delimiter):
            multi_line_cells.append(f"{location}: a quoted cell goes over {len(raw)} lines")
        if header is cells:
            check_unique_columns(header, location)
        elif len(cells) != len(header):
            fault = DataError(
                f"{location}: the number of cells is {len(cells)}, and the header's {len(header)}.",
                'Write " around a cell that holds the delimiter.',
            )
            report_bad_row(fault, on_bad_row)
        else:
            yield location, dict(zip(header, cells, strict=True))
    if multi_line_cells:
        more = f" So do {len(multi_line_cells) - 1:,} more." if len(multi_line_cells) > 1 else ""
        notes.append(
            f"{multi_line_cells[0]} that look like rows.{more} If its quotation mark is text, "
            'these rows are lost: write it twice, and " around the cell.'
        )


def _record_lines(lines_of_file: Iterable[str], recorded: list[str]) -> Iterator[str]:
    for line in lines_of_file:
        recorded.append(line)
        yield line


def _may_swallow_rows(
    cells: Sequence[str], lines_of_record: Sequence[str], column_count: int, delimiter: str
) -> bool:
    """Return whether a stray quotation mark may have merged rows into one cell.

    Few texts have tabs, so that one tab in a multi-line cell is enough. Most texts have commas:
    there, each line must have as many delimiters as a row.
    """
    if column_count < 2:
        return False
    if delimiter == "\t":
        return any("\t" in cell and ("\n" in cell or "\r" in cell) for cell in cells)
    return all(
        line.count(delimiter) == column_count - 1 for line in lines_of_record if line.strip()
    )
