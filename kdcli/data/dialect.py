"""How a csv or tsv file is written: its encoding, its separator, its quotation marks."""

import csv
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kdcli.data.lines import COMPRESSIONS, UTF_8, WESTERN, encoding, lines, western

# By a name's ending, the separators to expect, the most likely first.
SEPARATORS = {".csv": ",;\t|", ".tsv": "\t,;|"}
_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
# What Excel writes, and reads, as a first line.
_STATED = re.compile(r'"?sep=([^"\r\n])"?\s*', re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_SAMPLE = 1_000
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Attributes:
        separator: What stands between cells.
        encoding: The name that Python knows it by.
        quoted: Whether `"` around a cell is no part of it.
        before: How many lines stand before the header.
        notes: What was recognised that is not plain, in sentences.
    """

    separator: str
    encoding: str = UTF_8
    quoted: bool = True
    before: int = 0
    notes: tuple[str, ...] = ()

    @property
    def decimal_comma(self) -> bool:
        """Whether 4,5 may be a number: the comma does not part cells."""
        return self.separator != ","


def recognise(path: Path) -> Dialect:
    """Recognise how a csv or tsv file is written, from all of its content.

    Raises:
        DataError: The file can't be read; the message names file and line.
    """
    found = path.stat()
    return _recognise(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=256)
def _recognise(path: Path, changed: int, size: int) -> Dialect:
    csv.field_size_limit(_LONGEST_CELL)
    notes = []
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    usual = SEPARATORS[name.suffix.lower()]
    encoded = encoding(path)
    if encoded != UTF_8:
        notes.append(f"{path} is read as {encoded.upper()}, by its byte order mark.")
    elif word := western(path):
        encoded = WESTERN
        notes.append(
            f"{path} is not UTF-8, and read as Windows-1252: line {word[0]} has {word[1]!r}."
        )
    sample = [*islice(lines(path, encoded), _SAMPLE)]
    stated = _STATED.fullmatch(sample[0]) if sample else None
    separator = stated[1] if stated else _separator(sample, usual)
    if separator != usual[0]:
        by = "as its first line says" if stated else f"not {_NAMES[usual[0]]}"
        what = _NAMES.get(separator, repr(separator))
        notes.append(f"{path} has {what} between its cells, {by}.")
    before = 1 if stated else 0
    literal = None
    if separator == "\t":
        literal = _literal(islice(lines(path, encoded), before, None), separator)
    if literal is not None:
        notes.append(
            f"{path}:{literal + before}: quotation marks are read as text, here and in the other "
            "rows: they do not stand in pairs around cells."
        )
    return Dialect(separator, encoded, literal is None, before, tuple(notes))


def _separator(sample: list[str], usual: str) -> str:
    """The separator that gives most rows as many cells as the header has, and it two or more."""
    shares = {separator: _share(sample, separator) for separator in usual}
    best = max(usual, key=lambda separator: shares[separator])  # the first where several are
    return best if shares[best] > 0.5 else usual[0]


def _share(sample: list[str], separator: str) -> float:
    cells = [len(row) for row in csv.reader(sample, delimiter=separator) if row]
    if not cells or cells[0] < 2:
        return -1.0
    rows = cells[1:-1] if len(sample) == _SAMPLE and len(cells) > 2 else cells[1:]
    return sum(count == cells[0] for count in rows) / len(rows) if rows else 1.0


def _literal(found: Iterator[str], separator: str) -> int | None:
    """The first line whose quotation marks are text; None where they are around cells.

    They are text where every line by itself has as many cells as the header has, and some cell
    has a mark in a place where no program that puts cells in quotation marks would write it. What
    such a program writes has lines with too few cells, ends rows and the lines within a cell in
    different ways, or has doubled marks in a cell that a line end cuts.
    """
    header, usual, odd, first = 0, "", False, None
    for number, line in enumerate(found, start=1):
        body = line.rstrip("\r\n")
        if not body:
            continue
        end = line[len(body) :]
        header = header or body.count(separator) + 1
        usual = usual or end
        if header < 2 or body.count(separator) + 1 != header or end not in (usual, ""):
            return None
        if '"' in body:
            for cell in body.split(separator):
                if '"' in cell:
                    strange = not _QUOTED.fullmatch(cell)
                    if strange and '""' in cell:
                        return None
                    odd = odd or strange
                    if first is None and cell.startswith('"'):
                        first = number
    return first if odd else None
