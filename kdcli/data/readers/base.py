"""Base classes of data readers: the interface that a new format implements.

A reader of a file format subclasses `RowReader` (text formats, where an error can name a line) or
`ColumnarReader` (formats that store columns). A reader of folders subclasses `FolderReader`.
Readers of other packages are found by the entry-point group `kdcli.readers`; the entry point is
called like the ending of the file's (or folder's) name, without the dot:

    [project.entry-points."kdcli.readers"]
    avro = "my_package:AvroReader"
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from kdcli.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

# Where a row stands (file and line, for messages), and its cells by column.
LocatedRow: TypeAlias = tuple[str, Mapping[str, Any]]
# Called with the error of a broken row; the reader goes on with the next row.
BadRowHandler: TypeAlias = Callable[[DataError], None]
_ROWS_AT_A_TIME = 1_000


class DataReader(ABC):  # noqa: B024 (its two kinds have different methods)
    """A format of data sets. Subclass `RowReader`, `ColumnarReader` or `FolderReader`."""


def report_bad_row(error: DataError, on_bad_row: BadRowHandler | None) -> None:
    """Hand the error of a row to a handler, or raise it."""
    if on_bad_row is None:
        raise error
    on_bad_row(error)


class FileReader(DataReader):
    """A format of files. Subclass `RowReader` or `ColumnarReader`.

    Attributes:
        suffixes: Endings of file names in this format, in lower case: `(".csv", ".tsv")`.
        compressible: Whether kd also takes compressed files (`.csv.gz`, `.csv.zst`); the reader
            opens them with `kdcli.data.readers.text_lines`.
    """

    suffixes: ClassVar[tuple[str, ...]]
    compressible: ClassVar[bool] = False


class RowReader(FileReader):
    """A format that is read row by row.

    Attributes:
        cells_are_text: Whether every cell is text, as in csv. kd then makes numbers of a label
            column whose cells are all numbers; otherwise it keeps the types that rows have.
    """

    cells_are_text: ClassVar[bool] = False

    @abstractmethod
    def iterate_rows(
        self, path: Path, notes: list[str], on_bad_row: BadRowHandler | None = None
    ) -> Iterator[LocatedRow]:
        """Iterate over the rows of a file, in order.

        A file may be iterated several times. Texts are `str`; labels are `str`, `int`, `float`,
        `bool`, lists of these, or None where there is none.

        Args:
            path: The file.
            notes: Gets a sentence for each finding about the file that the user should know.
            on_bad_row: Receives the error of a broken row, which is then skipped. Default: the
                error is raised.

        Raises:
            DataError: A row is broken, or the file; the message names it.
        """

    def has_decimal_comma(self, path: Path) -> bool:
        """Return whether numbers in a file may be written as 4,5."""
        return False


class ColumnarReader(FileReader):
    """A format that stores columns."""

    @abstractmethod
    def column_names(self, path: Path) -> list[str]:
        """List the columns of a file."""

    @abstractmethod
    def read_table(self, path: Path, columns: Sequence[str]) -> "pa.Table":
        """Read some columns of a file, in the order asked for.

        kd checks beforehand that they exist, and afterwards that the table is valid.
        """

    def iterate_rows(self, path: Path) -> Iterator[LocatedRow]:
        """Iterate over the rows of a file with all columns."""
        start = 1
        for batch in self.read_table(path, self.column_names(path)).to_batches(_ROWS_AT_A_TIME):
            rows = enumerate(batch.to_pylist(), start)
            yield from ((f"{path}, row {number}", row) for number, row in rows)
            start += len(batch)

    @abstractmethod
    def count_rows(self, path: Path) -> int:
        """Count the rows of a file."""

    @abstractmethod
    def read_first_rows(self, path: Path, count: int) -> "pa.Table":
        """Read at most `count` rows from the start of a file, with all columns."""


class FolderReader(DataReader):
    """A data set that is a folder of its own format, not a folder of data files."""

    @abstractmethod
    def accepts(self, folder: Path) -> bool:
        """Return whether a folder is in this format; must not change or load it."""

    @abstractmethod
    def load(self, folder: Path) -> "Dataset | DatasetDict":
        """Load the data set: its splits by name, or a single one, which is taken as train.

        Raises:
            DataError: The folder is damaged.
        """
