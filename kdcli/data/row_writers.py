"""Write rows to a file in whole chunks, so that a process that was killed goes on after the last.

Until the file is complete, its rows lie in a folder beside it: `.NAME.partial`.
"""

import csv
import io
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcli.errors import DataError, UsageError
from kdcli.safe_files import fsync_path, write_text_atomically

OUTPUT_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
_PROGRESS_FILE = "progress.json"


@contextmanager
def open_row_writer(output: Path, columns: Sequence[str], signature: str) -> "Iterator[RowWriter]":
    """Open a file to write rows to; no other process can write it within the block.

    Args:
        output: The file, with one of `OUTPUT_SUFFIXES`.
        columns: The columns of csv, tsv and parquet.
        signature: What the rows depend on: an unfinished file with another one is started anew.

    Raises:
        UsageError: Another process is writing the file.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(output.with_name(f".{output.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UsageError(
            f"Another kd is writing {output}.", "Wait for it, or name another --output."
        ) from error
    with lock:
        suffix = output.suffix.lower()
        kind = {".jsonl": _JsonLinesWriter, ".parquet": _ParquetWriter}.get(suffix, _CsvWriter)
        yield kind(output, columns, signature)
    Path(lock.lock_file).unlink(missing_ok=True)


class RowWriter(ABC):
    """Writer of an output file.

    Args:
        output: The file.
        columns: Its columns.
        signature: What the rows depend on.

    Attributes:
        progress: What was noted with the last whole chunk; None at the beginning.
        discarded_progress: Whether an unfinished file with another signature was deleted.
    """

    def __init__(self, output: Path, columns: Sequence[str], signature: str) -> None:
        self.output, self.columns, self._signature = output, columns, signature
        self.folder = output.with_name(f".{output.name}.partial")
        self.progress: dict[str, Any] | None = None
        self._position = 0
        noted = self._read_progress()
        self.discarded_progress = noted is not None and noted["signature"] != signature
        if noted is not None and noted["signature"] == signature:
            self.progress, self._position = noted["progress"], noted["position"]
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()

    def write_chunk(self, rows: Sequence[Mapping[str, Any]], progress: Mapping[str, Any]) -> None:
        """Write rows, and then note `progress`."""
        self._position = self._write(rows)
        noted = {"signature": self._signature, "position": self._position, "progress": progress}
        write_text_atomically(self.folder / _PROGRESS_FILE, json.dumps(noted))

    def finish(self) -> None:
        """Make the rows the output file."""
        self._complete().replace(self.output)
        shutil.rmtree(self.folder)

    def _read_progress(self) -> dict[str, Any] | None:
        try:
            noted = json.loads((self.folder / _PROGRESS_FILE).read_text(encoding="utf-8"))
            return {key: noted[key] for key in ("signature", "position", "progress")}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @abstractmethod
    def _write(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Write rows behind those that are whole, and return the position after them."""

    @abstractmethod
    def _complete(self) -> Path:
        """Return the complete file in the folder."""


class _TextWriter(RowWriter):
    """Rows as text; the position is the length of the file in bytes."""

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> int:
        text = self._format(rows) if self._position else self._header() + self._format(rows)
        with (self.folder / "rows").open("r+b" if self._position else "wb") as file:
            file.truncate(self._position)
            file.seek(self._position)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def _complete(self) -> Path:
        if not self._position:
            self._write([])
        return self.folder / "rows"

    def _header(self) -> str:
        return ""

    @abstractmethod
    def _format(self, rows: Sequence[Mapping[str, Any]]) -> str: ...


class _JsonLinesWriter(_TextWriter):
    def _format(self, rows: Sequence[Mapping[str, Any]]) -> str:
        return "".join(f"{format_json_row(row)}\n" for row in rows)


class _CsvWriter(_TextWriter):
    def _header(self) -> str:
        return self._format([dict(zip(self.columns, self.columns, strict=True))])

    def _format(self, rows: Sequence[Mapping[str, Any]]) -> str:
        buffer = io.StringIO()
        delimiter = "\t" if self.output.suffix.lower() == ".tsv" else ","
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
        for row in rows:
            writer.writerow([_format_csv_cell(row.get(column)) for column in self.columns])
        return buffer.getvalue()


class _ParquetWriter(RowWriter):
    """Chunks as files, which are joined at the end; the position is their number."""

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> int:
        import pyarrow as pa
        import pyarrow.parquet as pq

        cells = {}
        for column in self.columns:
            try:
                cells[column] = pa.array([row.get(column) for row in rows])
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(
                    f"The column {column} has values of several types, which parquet can't hold.",
                    "Write .jsonl.",
                ) from error
        path = self._chunk_path(self._position)
        pq.write_table(pa.table(cells), path)
        fsync_path(path)
        return self._position + 1

    def _complete(self) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        paths = [self._chunk_path(number) for number in range(self._position)]
        schemas = [pq.read_schema(path) for path in paths]
        # A column may have been empty, or held whole numbers only, in some chunks.
        try:
            schema = pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                "A column has values of several types, which parquet can't hold.", "Write .jsonl."
            ) from error
        complete = self.folder / "complete.parquet"
        with pq.ParquetWriter(complete, schema) as writer:
            for path in paths:
                writer.write_table(pq.read_table(path).cast(schema))
        fsync_path(complete)
        return complete

    def _chunk_path(self, number: int) -> Path:
        return self.folder / f"{number:06}.parquet"


def format_json_row(row: Mapping[str, Any]) -> str:
    """Format a row as one line of JSON; dates and the like as text."""
    return json.dumps(row, ensure_ascii=False, default=str)


def _format_csv_cell(cell: Any) -> Any:
    if isinstance(cell, list) and all(
        isinstance(item, str) and not {*item} & {";", "\n"} for item in cell
    ):
        return ";".join(cell)
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, list | dict):
        return format_json_row(cell) if isinstance(cell, dict) else json.dumps(cell, default=str)
    return "" if cell is None else cell
