"""How a csv or tsv file is written: its encoding, its separator, its quotation marks."""

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

# By a name's ending, the separators to expect, the most likely first.
DELIMITERS_BY_SUFFIX = {".csv": ",;\t|", ".tsv": "\t,;|"}
_DELIMITER_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
# What Excel writes, and reads, as a first line.
_SEP_LINE = re.compile(r'"?sep=([^"\r\n])"?\s*', re.IGNORECASE)
_QUOTED_CELL = re.compile(r'"(?:[^"]|"")*"')
_SAMPLE_LINES = 1_000
_MAX_CELL_CHARACTERS = 2**31 - 1


@dataclass(frozen=True)
class CsvDialect:
    """How a file is written.

    Attributes:
        delimiter: What stands between cells.
        encoding: The name that Python knows it by.
        uses_quoting: Whether `"` around a cell is no part of it.
        skipped_lines: How many lines stand before the header.
        notes: What was recognised that is not plain, in sentences.
    """

    delimiter: str
    encoding: str = UTF_8
    uses_quoting: bool = True
    skipped_lines: int = 0
    notes: tuple[str, ...] = ()

    @property
    def decimal_comma(self) -> bool:
        """Whether 4,5 may be a number: the comma does not part cells."""
        return self.delimiter != ","


def detect_csv_dialect(path: Path) -> CsvDialect:
    """Recognise how a csv or tsv file is written, from all of its content.

    Raises:
        DataError: The file can't be read; the message names file and line.
    """
    found = path.stat()
    return _detect_csv_dialect(path, found.st_mtime_ns, found.st_size)


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
    """The separator that gives most rows as many cells as the header has, and it two or more."""
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
    """The first line whose quotation marks are text; None where they are around cells.

    They are text where every line by itself has as many cells as the header has, and some cell
    has a mark in a place where no program that puts cells in quotation marks would write it. What
    such a program writes has lines with too few cells, ends rows and the lines within a cell in
    different ways, or has doubled marks in a cell that a line end cuts.
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
