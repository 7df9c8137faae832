"""The table of data readers: built-in formats, and those of installed packages.

To add a format to kd, write a reader (see `kdcli.data.readers.base`) and add it to the table below.
To add one from another package, use the entry-point group `kdcli.readers`. What is neither a file
nor a folder here is read from the Hub: see `kdcli.data.readers.hub_dataset`.
"""

from pathlib import Path

from kdcli import plugins
from kdcli.data.readers.base import DataReader, FileReader, FolderReader
from kdcli.data.readers.csv_rows import CsvReader
from kdcli.data.readers.excel import ExcelReader
from kdcli.data.readers.json_rows import JsonReader
from kdcli.data.readers.parquet_arrow import ArrowReader, ParquetReader
from kdcli.data.readers.saved_dataset import SavedDatasetReader
from kdcli.data.readers.text_lines import COMPRESSIONS, uncompressed_suffix
from kdcli.errors import DataError

READER_GROUP = "kdcli.readers"

_FILE_READERS: list[FileReader] = [
    CsvReader(),
    JsonReader(),
    ExcelReader(),
    ParquetReader(),
    ArrowReader(),
]
_FOLDER_READERS: list[FolderReader] = [SavedDatasetReader()]


def register_reader(reader: DataReader) -> None:
    """Add a reader for this process; it takes precedence over earlier ones of the same suffix."""
    if isinstance(reader, FileReader):
        _FILE_READERS.insert(0, reader)
    elif isinstance(reader, FolderReader):
        _FOLDER_READERS.insert(0, reader)


def file_format(path: Path) -> str | None:
    """A file's format as its suffix, without a compression's; None if no reader knows it."""
    suffix = uncompressed_suffix(path)
    reader = _reader_of_suffix(suffix)
    if reader is None or (path.suffix.lower() in COMPRESSIONS and not reader.compressible):
        return None
    return suffix


def file_reader(path: Path) -> FileReader:
    """The reader of a file.

    Raises:
        DataError: No reader knows the format.
    """
    suffix = file_format(path)
    reader = None if suffix is None else _reader_of_suffix(suffix)
    if reader is None:
        raise DataError(
            f"{path} has no known format.", f"Known formats: {describe_supported_formats()}"
        )
    return reader


def folder_reader(folder: Path) -> FolderReader | None:
    """The reader of a folder that is in a format of its own; None for a folder of data files."""
    for reader in _FOLDER_READERS:
        if reader.accepts(folder):
            return reader
    plugin = _load_plugin(folder.suffix.lower())
    return plugin if isinstance(plugin, FolderReader) and plugin.accepts(folder) else None


def describe_supported_formats() -> str:
    """The suffixes that can be read, as a sentence for messages."""
    readers = sorted(_FILE_READERS, key=lambda reader: not reader.compressible)
    suffixes = dict.fromkeys(suffix for reader in readers for suffix in reader.suffixes)
    suffixes |= dict.fromkeys(f".{name}" for name in plugins.plugin_names(READER_GROUP))
    compressible = [s for reader in readers if reader.compressible for s in reader.suffixes]
    return (
        f"{', '.join(suffixes)}; the first {len(dict.fromkeys(compressible))} also with "
        f"{' or '.join(COMPRESSIONS)}."
    )


def _reader_of_suffix(suffix: str) -> FileReader | None:
    for reader in _FILE_READERS:
        if suffix in reader.suffixes:
            return reader
    plugin = _load_plugin(suffix)
    return plugin if isinstance(plugin, FileReader) else None


def _load_plugin(suffix: str) -> DataReader | None:
    reader_class = suffix and plugins.load_plugin(
        READER_GROUP, suffix.removeprefix("."), base_class=DataReader
    )
    return reader_class() if reader_class else None
