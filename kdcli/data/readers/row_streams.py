"""Rows of a data set one after the other, with all their columns."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.data.readers.base import BadRowHandler, ColumnarReader, LocatedRow, RowReader
from kdcli.data.readers.registry import file_reader
from kdcli.errors import DataError, KdError, first_message_line

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_AT_A_TIME = 1_000


@dataclass(frozen=True)
class RowStream:
    """A data set that is read without being held in memory.

    Attributes:
        name: Its name in messages.
        iterate: Returns its rows in order. Broken rows are handed to the handler, or raised.
        files: Its files; empty for a loaded data set.
        columns: Its columns, if they are known without reading.
        is_repeatable: Whether it can be read several times.
    """

    name: str
    iterate: Callable[[BadRowHandler | None], Iterator[LocatedRow]]
    files: Sequence[Path] = ()
    columns: tuple[str, ...] | None = None
    is_repeatable: bool = True


def stream_files(files: Sequence[Path]) -> RowStream:
    """Stream the rows of data files, one file after the other.

    Raises:
        DataError: A file has no known format.
    """
    for file in files:
        file_reader(file)

    def iterate(on_bad_row: BadRowHandler | None) -> Iterator[LocatedRow]:
        return chain.from_iterable(_iterate_file(file, on_bad_row) for file in files)

    return RowStream(str(files[0]), iterate, files)


def stream_dataset(name: str, split: "Dataset") -> RowStream:
    """Stream the rows of a loaded data set; ids of class labels become their names."""
    classes = {column: getattr(kind, "names", None) for column, kind in split.features.items()}

    def iterate(on_bad_row: BadRowHandler | None) -> Iterator[LocatedRow]:
        del on_bad_row  # the data set is whole
        for start in range(0, len(split), _ROWS_AT_A_TIME):
            end = min(start + _ROWS_AT_A_TIME, len(split))
            for number, row in enumerate(split.select(range(start, end)).to_list(), start + 1):
                yield f"{name}, row {number}", _name_class_labels(row, classes)

    return RowStream(name, iterate)


def stream_texts(name: str, texts: Iterable[str], unit: str = "text") -> RowStream:
    """Stream texts, which may be read once only, as rows with the column `text`."""

    def iterate(on_bad_row: BadRowHandler | None) -> Iterator[LocatedRow]:
        del on_bad_row  # texts have no other faults than being empty
        for number, text in enumerate(texts, 1):
            yield f"{name}, {unit} {number}", {"text": text}

    return RowStream(name, iterate, columns=("text",), is_repeatable=False)


def _iterate_file(file: Path, on_bad_row: BadRowHandler | None) -> Iterator[LocatedRow]:
    reader = file_reader(file)
    try:
        if isinstance(reader, ColumnarReader):
            yield from reader.iterate_rows(file)
        elif isinstance(reader, RowReader):
            # Readers of other packages may know no handler: they raise.
            takes_handler = "on_bad_row" in inspect.signature(reader.iterate_rows).parameters
            handler: dict[str, Any] = {"on_bad_row": on_bad_row} if takes_handler else {}
            yield from reader.iterate_rows(file, [], **handler)
    except KdError:
        raise
    except Exception as error:
        raise DataError(
            f"{file} can't be read: {first_message_line(error)}", "Is it whole? Write it again."
        ) from error


def _name_class_labels(
    row: Mapping[str, Any], classes: Mapping[str, Sequence[str] | None]
) -> dict[str, Any]:
    named = {**row}
    for column, names in classes.items():
        if names is not None and isinstance(row[column], int) and row[column] >= 0:
            named[column] = names[row[column]]
    return named
