"""Detection of csv dialects: encoding, delimiter and quoting of csv and tsv files."""

import csv
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kdcli.data.readers.text_lines import (
    UTF_8,
    WINDOWS_1252,
    detect_bom_encoding,
    find_windows_1252_word,
    iterate_lines,
    uncompressed_suffix,
)

# The delimiters to expect by suffix, the most likely first.
DELIMITERS_BY_SUFFIX = {".csv": ",;\t|", ".tsv": "\t,;|"}
_DELIMITER_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
# The first line by which Excel states the delimiter.
_SEP_LINE = re.compile(r'"?sep=([^"\r\n])"?\s*', re.IGNORECASE)
_QUOTED_CELL = re.compile(r'"(?:[^"]|"")*"')
_SAMPLE_LINES = 1_000
_MAX_CELL_CHARACTERS = 2**31 - 1


@dataclass(frozen=True)
class CsvDialect:
    """Dialect of a file.

    Attributes:
        delimiter: The character between cells.
        encoding: Python's name of the encoding.
        uses_quoting: Whether `"` around a cell is not part of it.
        skipped_lines: The number of lines before the header.
        notes: Sentences for the user about what differs from plain csv in UTF-8.
    """

    delimiter: str
    encoding: str = UTF_8
    uses_quoting: bool = True
    skipped_lines: int = 0
    notes: tuple[str, ...] = ()

    @property
    def decimal_comma(self) -> bool:
        """Return whether 4,5 may be a number, since the comma is no delimiter."""
        return self.delimiter != ","


def detect_csv_dialect(path: Path) -> CsvDialect:
    """Detect the dialect of a csv or tsv file from its whole content.

    Raises:
        DataError: The file can't be read; the message names file and line.
    """
    status = path.stat()
    return _detect_csv_dialect(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _detect_csv_dialect(path: Path, mtime_ns: int, size: int) -> CsvDialect:
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    notes = []
    usual = DELIMITERS_BY_SUFFIX[uncompressed_suffix(path)]
    encoded = detect_bom_encoding(path)
    if encoded != UTF_8:
        notes.append(f"{path} is read as {encoded.upper()}, by its byte order mark.")
    elif word := find_windows_1252_word(path):
        encoded = WINDOWS_1252
        notes.append(
            f"{path} is not UTF-8, and read as Windows-1252: line {word[0]} has {word[1]!r}."
        )
    sample = [*islice(iterate_lines(path, encoded), _SAMPLE_LINES)]
    stated = _SEP_LINE.fullmatch(sample[0]) if sample else None
    separator = stated[1] if stated else _guess_delimiter(sample, usual)
    if separator != usual[0]:
        by = "as its first line says" if stated else f"not {_DELIMITER_NAMES[usual[0]]}"
        what = _DELIMITER_NAMES.get(separator, repr(separator))
        notes.append(f"{path} has {what} between its cells, {by}.")
    before = 1 if stated else 0
    literal = None
    if separator == "\t":
        literal = _first_literal_quote_line(
            islice(iterate_lines(path, encoded), before, None), separator
        )
    if literal is not None:
        notes.append(
            f"{path}:{literal + before}: quotation marks are read as text, here and in the other "
            "rows: they do not stand in pairs around cells."
        )
    return CsvDialect(separator, encoded, literal is None, before, tuple(notes))


def _guess_delimiter(sample: list[str], candidates: str) -> str:
    """The delimiter by which most rows have as many cells as the header, at least two."""
    shares = {separator: _consistent_row_share(sample, separator) for separator in candidates}
    best = max(candidates, key=lambda separator: shares[separator])  # the first where several are
    return best if shares[best] > 0.5 else candidates[0]


def _consistent_row_share(sample: list[str], delimiter: str) -> float:
    cells = [len(row) for row in csv.reader(sample, delimiter=delimiter) if row]
    if not cells or cells[0] < 2:
        return -1.0
    rows = cells[1:-1] if len(sample) == _SAMPLE_LINES and len(cells) > 2 else cells[1:]
    return sum(count == cells[0] for count in rows) / len(rows) if rows else 1.0


def _first_literal_quote_line(lines_of_file: Iterator[str], delimiter: str) -> int | None:
    """The first line with quotation marks that are text; None if they quote cells.

    They are text if every line alone has as many cells as the header, and a cell has a mark where
    no program that quotes cells would write one. A program that quotes writes lines with too few
    cells, different line ends within and after cells, or doubled marks in a cell that a line end
    cuts.
    """
    header, usual, odd, first = 0, "", False, None
    for number, line in enumerate(lines_of_file, start=1):
        body = line.rstrip("\r\n")
        if not body:
            continue
        end = line[len(body) :]
        header = header or body.count(delimiter) + 1
        usual = usual or end
        if header < 2 or body.count(delimiter) + 1 != header or end not in (usual, ""):
            return None
        if '"' in body:
            for cell in body.split(delimiter):
                if '"' in cell:
                    strange = not _QUOTED_CELL.fullmatch(cell)
                    if strange and '""' in cell:
                        return None
                    odd = odd or strange
                    if first is None and cell.startswith('"'):
                        first = number
    return first if odd else None
