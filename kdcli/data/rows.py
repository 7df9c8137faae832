"""The rows of a csv, tsv, jsonl or json file, each with the place that it stands in.

A file may be compressed: its lines are counted as they are within.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcli.errors import DataError

Row = tuple[str, Mapping[str, Any]]  # its place, and its cells by column

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LONGEST_CELL = 2**31 - 1
_OBJECTS = 'A row is an object such as {"text": "…", "label": "…"}.'


def rows(path: Path) -> Iterator[Row]:
    """The rows of a text file, in order; blank lines are none.

    Raises:
        DataError: A line is broken; the message names it.
    """
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    delimiter = _DELIMITERS.get(name.suffix.lower())
    return _objects(path) if delimiter is None else _records(path, delimiter)


def _records(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        # A record may go over several lines: what counts is where it begins.
        where = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{where}: the quotes don't match ({error}).",
                'Write " within a cell twice, and " around it.',
            ) from error
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = _header(cells, where)
        elif len(cells) != len(header):
            raise DataError(
                f"{where}: the number of cells is {len(cells)}, and the header's {len(header)}.",
                'Write " around a cell that holds the delimiter.',
            )
        else:
            yield where, dict(zip(header, cells, strict=True))


def _header(cells: list[str], where: str) -> list[str]:
    twice = next((name for name in cells if name and cells.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: the column {twice} is there twice.", "Rename one of them.")
    return cells


def _objects(path: Path) -> Iterator[Row]:
    lines = enumerate(_lines(path), start=1)
    first = True
    for number, line in lines:
        if not line.strip():
            continue
        if first and line.lstrip().startswith("["):
            # One list of all rows, over all lines.
            items = _parsed(line + "".join(more for _, more in lines), path, number)
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


def _lines(path: Path) -> Iterator[str]:
    number = 0
    try:
        with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise DataError(
                        f"{path}:{number}: holds a NUL byte, which no text does.",
                        "Is it a text file, and whole?",
                    )
                yield line
    except UnicodeDecodeError as error:
        where = f"{path}:{_first_undecodable(path)}"
        raise DataError(f"{where}: is not UTF-8 text.", "Save it as UTF-8.") from error
    except OSError as error:
        if error.strerror:
            raise DataError(f"{path}: can't be read: {error.strerror}.") from error
        raise DataError(
            f"{path}:{number + 1}: can't be read on: {error}.", "Is it whole? Write it again."
        ) from error


def _opened(path: Path) -> Any:
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    import pyarrow as pa

    return pa.input_stream(str(path), compression=compression)


def _first_undecodable(path: Path) -> int:
    with _opened(path) as file:
        for number, line in enumerate(io.BufferedReader(file), start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1
