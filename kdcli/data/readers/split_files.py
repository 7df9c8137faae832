"""Files of each split, from a local file, pattern or folder."""

import glob
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import yaml

from kdcli import path_resolution
from kdcli.data.readers import registry
from kdcli.data.readers.text_lines import COMPRESSIONS
from kdcli.errors import DataError, first_message_line
from kdcli.recipe.data import DataConfig
from kdcli.safe_files import find_escaping_symlink, is_inside, sha256_of_file

if TYPE_CHECKING:
    from datasets import Dataset

    # A split as data files, or as a dataset that is loaded already.
    SplitSource: TypeAlias = list[Path] | Dataset

_UNSUPPORTED_SPREADSHEETS = (".xls", ".xlsb", ".xlsm", ".ods", ".numbers")


def folder_layout_hint() -> str:
    """Describe the files that a folder of data holds, as a sentence for messages."""
    return (
        "A folder holds files that are called train, validation or test, or that data.splits "
        f"names: {registry.describe_supported_formats()}"
    )


def is_local_dataset(data_config: DataConfig) -> bool:
    """Return whether `data.dataset` is an existing path or a pattern, and no Hub id."""
    return path_resolution.expand_local_path(
        data_config.dataset
    ).exists() or path_resolution.is_glob(data_config.dataset)


def hash_local_dataset(data_config: DataConfig) -> str:
    """SHA-256 of local data; it depends on content and format, and not on the location.

    Raises:
        DataError: There are no such files.
    """
    path = _check_no_outside_links(path_resolution.expand_local_path(data_config.dataset))
    # The suffix decides how a file is read.
    digest = hashlib.sha256(_format_suffix(path).encode())
    for name, file in _iterate_hashed_files(path, data_config):
        digest.update(f"{name}:{sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def find_local_splits(data_config: DataConfig, notes: list[str]) -> "Mapping[str, SplitSource]":
    """Find the splits of local data, by name.

    Args:
        data_config: A file, a pattern, or a folder. A single file or pattern is train.
        notes: Gets a sentence for each setting that is ignored.

    Raises:
        DataError: There are no data files, or one has no known format.
    """
    path = _check_no_outside_links(path_resolution.expand_local_path(data_config.dataset))
    if path.is_file():
        return {"train": [_check_known_format(path)]}
    return _find_splits_by_pattern(path, data_config) or _find_splits_in_folder(
        path, data_config, notes
    )


def is_inside_dataset_folder(data_config: DataConfig, candidate: Path) -> bool:
    """Return whether `candidate` lies in a folder of data, all files of which count as data."""
    path = path_resolution.expand_local_path(data_config.dataset)
    counts_all_files = (
        path.is_dir()
        and not registry.folder_reader(path)
        and not _find_splits_by_pattern(path, data_config)
    )
    return counts_all_files and candidate.resolve().is_relative_to(path.resolve())


def _check_no_outside_links(path: Path) -> Path:
    """Refuse a folder with links to files outside: their content would be shown and published."""
    if path.is_dir() and (link := find_escaping_symlink(path)):
        raise DataError(
            f"{link} is a link to a file outside of the data's folder.",
            "Replace the link by the file, or name the file in data.dataset.",
        )
    return path


def describe_split_source(split: str | tuple[str, ...]) -> str:
    """The name of a split: its own, or the patterns of its files."""
    return split if isinstance(split, str) else ", ".join(split)


def _iterate_hashed_files(path: Path, data_config: DataConfig) -> Iterator[tuple[str, Path]]:
    """The files of a dataset in order, each with the name that counts in the hash."""
    if path.is_file():
        yield ".", path
    elif by_split := _find_splits_by_pattern(path, data_config):
        for name, of_split in by_split.items():
            yield from ((f"{name}{_format_suffix(file)}", file) for file in of_split)
    else:
        inside = (file for file in path.rglob("*") if file.is_file())
        yield from ((str(file.relative_to(path)), file) for file in sorted(inside))


def _format_suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:]) if path.suffix in COMPRESSIONS else path.suffix


def _find_splits_by_pattern(path: Path, data_config: DataConfig) -> dict[str, list[Path]]:
    """The files of each split if the recipe names files or patterns; otherwise an empty dict."""
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is neither a file nor a folder.")
    if not path.is_dir():
        return {"train": _match_files(path, f"data.dataset: no file is like {path}.")}
    stated = {
        part: (split,) if isinstance(split, str) else split
        for part, split in data_config.splits.explicit_splits.items()
        if split is not None
    }
    if not any(map(_are_file_patterns, stated.values())) or registry.folder_reader(path):
        return {}
    files_by_split: dict[str, list[Path]] = {}
    owners: dict[Path, str] = {}
    for part, patterns in stated.items():
        key = f"data.splits.{part}:"
        if outside_pattern := next(
            (p for p in patterns if ".." in Path(p).parts or Path(p).root), None
        ):
            raise DataError(f"{key} {outside_pattern} is not within the folder {path}.")
        part_files = [
            file
            for pattern in patterns
            for file in _match_files(path / pattern, f"{key} no file in {path} is like {pattern}.")
        ]
        for file in part_files:
            if file in owners:
                raise DataError(
                    f"{key} {file} is among the files of {owners[file]} already.",
                    "A file belongs to one split, and once.",
                )
            owners[file] = part
        files_by_split[describe_split_source(getattr(data_config.splits, part))] = part_files
    return files_by_split


def _are_file_patterns(patterns: tuple[str, ...]) -> bool:
    return len(patterns) > 1 or any(
        path_resolution.is_glob(p) or registry.file_format(Path(p)) for p in patterns
    )


def _match_files(pattern: Path, error_message: str) -> list[Path]:
    files = [_check_known_format(file) for file in path_resolution.expand_glob(pattern)]
    if not files:
        raise DataError(error_message)
    return files


def _find_splits_in_folder(
    path: Path, data_config: DataConfig, notes: list[str]
) -> "Mapping[str, SplitSource]":
    from datasets import Dataset

    if reader := registry.folder_reader(path):
        loaded = reader.load(path)
        return {"train": loaded} if isinstance(loaded, Dataset) else loaded
    card = path / "README.md"
    if card.is_file() and card.read_bytes().startswith(b"---"):
        return _load_splits_from_card(path, data_config, notes)
    if data_config.config is not None:
        notes.append(
            f"data.config {data_config.config} is left aside: the folder {path} has no such one."
        )
    return _find_splits_by_file_name(path)


def _find_splits_by_file_name(path: Path) -> dict[str, list[Path]]:
    """The files of a folder, by the split that the name of the file or its folder means."""
    from datasets.data_files import get_data_patterns, resolve_pattern

    script = path / f"{path.resolve().name}.py"
    if script.is_file():
        raise DataError(
            f"{path} is loaded by a script, {script.name}, and scripts are not run.",
            "Name its files: data.splits.train: train.csv, say.",
        )
    # `datasets` reads the folder's own path as a pattern.
    base = glob.escape(path.resolve().as_posix())
    splits: dict[str, list[Path]] = {}
    try:
        patterns = get_data_patterns(base)
    except FileNotFoundError:
        patterns = {}
    for split, files in patterns.items():
        matched: set[Path] = set()
        for pattern in files:
            with suppress(FileNotFoundError):
                matched.update(map(Path, resolve_pattern(pattern, base)))
        # Other files may lie in the folder, but a split of unreadable files alone is an error.
        readable = sorted(file for file in matched if registry.file_format(file) is not None)
        splits[str(split)] = readable or (
            [_check_known_format(min(matched))] if files != ["**"] else []
        )
    splits = {split: files for split, files in splits.items() if files}
    if not splits:
        raise DataError(f"{path} holds no data files.", folder_layout_hint())
    return splits


def _load_splits_from_card(
    path: Path, data_config: DataConfig, notes: list[str]
) -> "Mapping[str, SplitSource]":
    """Load a folder by the metadata of its card, which name the files and their options."""
    from datasets import get_dataset_config_names, load_dataset, load_dataset_builder

    if path_resolution.is_glob(str(path.resolve())):
        raise DataError(
            f"{path}: a folder with a data card can't have *, ? or [ in its path.",
            "Rename it, or delete what README.md has between its lines ---.",
        )
    # Only to list the files, `datasets` already fetches URLs and other folders.
    for card in (path / "README.md", path / ".huggingface.yaml"):
        for name in _card_config_strings(card):
            if "://" in name or "::" in name or not is_inside(path, name):
                raise DataError(f"{card} names a file outside its folder: {name}.")
    config = data_config.config
    if config is not None and config not in get_dataset_config_names(str(path)):
        notes.append(f"data.config {config} is left aside: the folder {path} has no such one.")
        config = None
    builder = load_dataset_builder(str(path), config)
    for file in (file for in_split in builder.config.data_files.values() for file in in_split):
        _check_inside_folder(path, file)
    # An empty cell or the word "null" is text, not a missing value.
    options = {"keep_default_na": False} if hasattr(builder.config, "keep_default_na") else {}
    return load_dataset(str(path), config, **options)


def _card_config_strings(card: Path) -> Iterator[str]:
    """Strings under `configs` in a card's metadata, names of files among them."""
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8", errors="replace")
    if card.suffix == ".md":
        text = text.removeprefix("---").partition("\n---")[0]
    try:
        metadata = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{card}: its metadata are no YAML: {first_message_line(error)}") from error
    yield from _nested_strings(metadata.get("configs") if isinstance(metadata, dict) else None)


def _nested_strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _nested_strings(part)


def _check_known_format(path: Path) -> Path:
    if path.suffix.lower() in _UNSUPPORTED_SPREADSHEETS:
        raise DataError(f"{path} has no known format.", "Save it as .xlsx or as CSV.")
    registry.file_reader(path)
    return path


def _check_inside_folder(folder: Path, file: str) -> None:
    path = Path(os.path.normpath(file))
    if not is_inside(folder.resolve(), file):
        raise DataError(f"{folder / 'README.md'} names a file outside its folder: {file}.")
    _check_known_format(path)
