"""Folders written by `save_to_disk` of `datasets`, which may come from a stranger."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.data.readers.base import FolderReader
from kdcli.errors import DataError
from kdcli.safe_files import find_escaping_symlink, is_inside

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_DICT_FILE, _STATE_FILE = "dataset_dict.json", "state.json"


class SavedDatasetReader(FolderReader):
    """Folders of `save_to_disk`, memory-mapped."""

    def accepts(self, folder: Path) -> bool:
        """Return whether `save_to_disk` wrote the folder."""
        return is_saved_dataset(folder)

    def load(self, folder: Path) -> "Dataset | DatasetDict":
        """Load the data set and check that it names no file outside of its folder."""
        return load_saved_dataset(folder)


def is_saved_dataset(path: Path) -> bool:
    """Return whether `save_to_disk` wrote a folder."""
    return (path / _DICT_FILE).exists() or (path / _STATE_FILE).exists()


def load_saved_dataset(folder: Path) -> "Dataset | DatasetDict":
    """Load a saved dataset, memory-mapped.

    Raises:
        DataError: It names or links a file outside of its folder, or its lists of files are
            damaged.
    """
    from datasets import load_from_disk

    if link := find_escaping_symlink(folder):
        raise DataError(f"{link} is a link to a file outside of the data's folder.")
    # `datasets` joins these names to the folder as they are, `..` included.
    folders = [folder]
    if (folder / _DICT_FILE).is_file():
        folders = [folder / name for name in _read_listed_names(folder / _DICT_FILE)]
    for split_folder in folders:
        _read_listed_names(split_folder / _STATE_FILE)
    return load_from_disk(str(folder))


def _read_listed_names(file: Path) -> list[str]:
    """The files or folders that a list names; all must lie in its folder."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if file.name == _DICT_FILE:
            names = [*content["splits"]]
        else:
            names = [entry["filename"] for entry in content["_data_files"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{file} is damaged, or missing: it lists no files.") from error
    for name in names:
        if not is_inside(file.parent, name):
            raise DataError(f"{file} names a file outside of its folder: {name}.")
    return names
