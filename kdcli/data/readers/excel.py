"""Rows of Excel workbooks."""

from collections.abc import Iterator, Sequence
from datetime import datetime, time
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kdcli.data.readers.base import BadRowHandler, LocatedRow, RowReader, report_bad_row
from kdcli.data.readers.csv_rows import check_unique_columns
from kdcli.errors import DataError


class ExcelReader(RowReader):
    """The one sheet of a workbook that has rows; every cell is text, as in Excel's own csv."""

    suffixes = (".xlsx",)
    cells_are_text = True

    def iterate_rows(
        self, path: Path, notes: list[str], on_bad_row: BadRowHandler | None = None
    ) -> Iterator[LocatedRow]:
        """Iterate over the rows below the header; empty rows are skipped."""
        return _iterate_excel_rows(path, on_bad_row)


def _iterate_excel_rows(path: Path, on_bad_row: BadRowHandler | None) -> Iterator[LocatedRow]:
    header: list[str] | None = None
    for number, cells in _iterate_sheet_rows(path):
        where = f"{path}, row {number}"
        if header is None:
            header = cells
            check_unique_columns(header, where)
        elif len(cells) > len(header):
            fault = DataError(
                f"{where}: the number of cells is {len(cells)}, and the header's {len(header)}.",
                "Name every column in the first row.",
            )
            report_bad_row(fault, on_bad_row)
        else:
            yield where, dict(zip_longest(header, cells, fillvalue=""))


def _iterate_sheet_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Iterate over the rows of the one sheet that has any: row number and cells.

    Cells are text as in Excel's own csv: 1 instead of 1.0, TRUE, 2024-03-01; empty for an empty
    cell or a failed formula. A formula is its value when the file was saved. Hidden sheets and
    empty rows are skipped.

    Raises:
        DataError: Several sheets have rows, or openpyxl is not installed.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise DataError(
            f"{path}: Excel's files need openpyxl.", "Install it: pip install 'kdcli[excel]'."
        ) from error
    with path.open("rb") as file:
        book = load_workbook(file, read_only=True, data_only=True)
        sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        # Some programs write a wrong sheet size, at which openpyxl would cut it.
        for sheet in sheets:
            sheet.reset_dimensions()
        full = [sheet for sheet in sheets if next(_iterate_nonempty_rows(sheet), None)]
        if len(full) > 1:
            names = ", ".join(sheet.title for sheet in full)
            raise DataError(
                f"{path} has several sheets with rows: {names}.",
                "Save the sheet with the data as its own file.",
            )
        for sheet in full:
            yield from _iterate_nonempty_rows(sheet)


def _iterate_nonempty_rows(sheet: Any) -> Iterator[tuple[int, list[str]]]:
    for number, row in enumerate(sheet.iter_rows(), start=1):
        cells = _strip_trailing_empty_cells(
            ["" if cell.data_type == "e" else _cell_to_text(cell.value) for cell in row]
        )
        if cells:
            yield number, cells


def _strip_trailing_empty_cells(cells: Sequence[str]) -> list[str]:
    """Strip empty cells at the end: their number depends on how the sheet was viewed."""
    count = next((i for i in range(len(cells), 0, -1) if cells[i - 1]), 0)
    return list(cells[:count])


def _cell_to_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime):
        return str(value.date() if value.time() == time() else value)
    if isinstance(value, str) and "_x" in value:
        from openpyxl.utils.escape import unescape

        return unescape(value)
    return str(value)
