"""From a Hub id, a file or a folder to named splits of texts and labels."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kdcli.data import column_access, schema_inference
from kdcli.data.checks import duplicates
from kdcli.data.column_access import RowLocator
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.labels import label_arrays, label_standardization, multilabel
from kdcli.data.readers import data_files, split_files
from kdcli.data.readers.hub_dataset import load_hub_dataset, unreadable_dataset_error
from kdcli.data.validation_split import split_off_validation
from kdcli.errors import (
    DataError,
    KdError,
    MissingColumnError,
)
from kdcli.recipe.data import DataConfig
from kdcli.tasks import SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import Dataset

    from kdcli.data.readers.split_files import SplitSource

_DEFAULT_SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}


def dataset_cache_key(data_config: DataConfig) -> str:
    """What the data is, for the key of what is made from it; nothing is downloaded.

    Files are known by their content, a Hub data set by id and revision (pin a commit where a
    moving branch matters).
    """
    if not split_files.is_local_dataset(data_config):
        return f"hub:{data_config.dataset}@{data_config.revision or 'main'}"
    return f"sha256:{split_files.hash_local_dataset(data_config)}"


def load_dataset_splits(
    data_config: DataConfig,
    seed: int,
    *,
    require_train: bool = True,
    teacher_labels: tuple[tuple[str, ...], Task] | None = None,
) -> DatasetSplits:
    """Load the data set of a recipe.

    Args:
        data_config: Names the data set, its columns and its splits.
        seed: Of the cut, where a validation split has to be set aside.
        require_train: Whether there must be a train split, of two labels at least, and a validation
            split, set aside from it where there is none; to measure on, any split will do.
        teacher_labels: Of data without labels, those that its texts may have, and what they are.

    Raises:
        DataError: The data set, a split, a column or a label is missing or unusable.
        HubError: The Hub can't be reached.
    """
    notes: list[str] = []
    splits, places, sources = read_splits(data_config, notes, require_train=require_train)
    for part, split in splits.items():
        _check_no_empty_texts(split, places[part])
    if teacher_labels is None:
        splits, names, task, ordered = label_standardization.standardize_labels(
            splits, data_config, places, notes
        )
    else:
        (names, task), ordered = teacher_labels, True
        label_arrays.check_teacher_has_several_labels(names, task)
    if task is not SINGLE_LABEL:
        notes.append(f"The task is {task}: {task.description}.")
    if require_train and teacher_labels is None:
        label_arrays.check_labels_vary(splits["train"], names, task, data_config)
    if require_train and "validation" not in splits:
        by_label = teacher_labels is None and task is SINGLE_LABEL
        splits |= split_off_validation(splits["train"], data_config, seed, stratified=by_label)
        sources["validation"] = f"{sources['train']}, held out"
        how = "stratified by label" if by_label else "at random"
        notes.append(
            f"There is no validation split: {len(splits['validation']):,} of the "
            f"{len(splits['train']) + len(splits['validation']):,} training texts were set aside "
            f"({how}, seed {seed})."
        )
    every = (*notes, *duplicates.duplicate_notes(splits))
    return DatasetSplits(splits, names, every, task, teacher_labels is None, ordered, sources)


def read_splits(
    data_config: DataConfig, notes: list[str], *, require_train: bool = False
) -> tuple[dict[str, "Dataset"], dict[str, RowLocator], dict[str, str]]:
    """The splits as they were found, by part: texts may be empty, and labels missing or unnamed.

    A test split without any labels is left out, as there is nothing to measure there.

    Args:
        data_config: Names the data set, its columns and its splits.
        notes: Told what was decided on the way.
        require_train: Whether there must be a train split.

    Returns:
        The splits, with `text` (and `text_pair`) and, where there are labels, `label`, a list
        where a text has several; by part, where its rows stand; and by part, what the data set
        calls it.

    Raises:
        DataError: The data set, all splits, or a column are missing or unusable.
        HubError: The Hub can't be reached.
    """
    found = find_splits(data_config, notes)
    parts = dict(assign_split_roles(data_config, found))
    if require_train and "train" not in parts:
        wanted = split_files.split_name(data_config.splits.train)
        raise DataError(f"There is no split {wanted} to train on in {data_config.dataset}.")
    if not parts:
        raise DataError(
            f"There is no split train, validation or test in {data_config.dataset}; "
            f"there is {', '.join(found)}.",
            "Say which is which: data.splits.",
        )
    splits, places = {}, {}
    for part, name in [*parts.items()]:
        place = _make_row_locator(data_config, name, found[name])
        try:
            split = _standardize_columns(data_config, name, found[name], notes)
            gaps = part == "test" and _is_entirely_unlabeled(split)
        except MissingColumnError as error:
            gaps = part == "test" and error.key == "label"
            gaps = gaps and set(data_config.label_columns).isdisjoint(error.available_columns)
            if not gaps:
                raise
        if gaps:
            del parts[part]
            notes.append(
                f"The test split {name} of {data_config.dataset} has no labels, and is left out: nothing "
                "can be measured on it. Its texts can be labelled with the finished student."
            )
            continue
        splits[part], places[part] = _convert_to_label_lists(split, data_config, place), place
    if not splits:
        raise DataError(
            f"{data_config.dataset} has no labels to measure by.", "Name another: data.label."
        )
    return splits, places, parts


def load_unlabeled_texts(data_config: DataConfig, notes: list[str]) -> "Dataset":
    """The texts of a data set's first split, train where there is one, without their labels.

    Args:
        data_config: Names the data set, its text columns and its splits.
        notes: Told what was decided on the way.

    Raises:
        DataError: The data set or a column is missing or unusable.
        HubError: The Hub can't be reached.
    """
    data_config = data_config.model_copy(update={"label": None, "label_separator": None})
    found = find_splits(data_config, notes)
    _, name = next(assign_split_roles(data_config, found), ("train", next(iter(found))))
    split = _standardize_columns(data_config, name, found[name], notes)
    _check_no_empty_texts(split, _make_row_locator(data_config, name, found[name]))
    return split


def find_splits(data_config: DataConfig, notes: list[str]) -> "Mapping[str, SplitSource]":
    """What there is, by split: files that are ours to read, or what `datasets` has read.

    Raises:
        DataError: There is no such data set, or it is unusable.
        HubError: The Hub can't be reached.
    """
    if not split_files.is_local_dataset(data_config):
        return load_hub_dataset(data_config, notes)
    try:
        return split_files.find_local_splits(data_config, notes)
    except KdError:
        raise
    except Exception as error:
        raise unreadable_dataset_error(
            data_config.dataset, error, split_files.folder_layout_hint()
        ) from error


def assign_split_roles(
    data_config: DataConfig, available_splits: "Mapping[str, SplitSource]"
) -> Iterator[tuple[str, str]]:
    """Which of the splits found plays which part, as (part, split) pairs."""
    stated = data_config.splits.explicit_splits
    taken = {split_files.split_name(split) for split in stated.values() if split is not None}
    for part, usual in _DEFAULT_SPLIT_NAMES.items():
        split = stated.get(part)
        wanted = None if split is None else split_files.split_name(split)
        if wanted is None and part in stated:
            continue
        if wanted is None:
            # What plays another part by the recipe can't be this one, whatever its name.
            wanted = next((n for n in usual if n in available_splits and n not in taken), None)
        elif wanted not in available_splits and part == "train":
            continue
        elif wanted not in available_splits:
            raise DataError(
                f"data.splits.{part}: there is no split {wanted} in {data_config.dataset}; "
                f"there is {', '.join(available_splits)}."
            )
        if wanted is not None:
            if not len(available_splits[wanted]):
                raise DataError(f"The split {wanted} of {data_config.dataset} is empty.")
            yield part, wanted


def _standardize_columns(
    data_config: DataConfig, split_name: str, split_source: "SplitSource", notes: list[str]
) -> "Dataset":
    """A split's texts and labels, under the names that the rest of kd knows them by."""
    texts = data_config.text_columns
    columns = data_config.label_columns
    single = len(columns) == 1
    called = dict(
        zip(
            columns,
            ["label"] if single else multilabel.temporary_flag_columns(columns),
            strict=True,
        )
    )
    wanted = dict(zip(("text", "text_pair"), texts, strict=False))
    wanted |= {standard: column for column, standard in called.items()}
    if len(set(wanted.values())) < len(texts) + len(columns):
        raise DataError(
            f"Text and label are columns of their own, not {', '.join(texts + columns)}."
        )
    if isinstance(split_source, list):
        numbers = data_config.label_separator is None and data_config.task != SINGLE_LABEL.name
        split_source = data_files.read_text_and_label_columns(
            split_source, texts, columns, notes, parse_fractions=numbers
        )
    for column in wanted.values():
        if column not in split_source.column_names:
            key = "label" if column in columns else "text"
            where = f"split {split_name} of {data_config.dataset}"
            raise MissingColumnError(key, column, where, split_source.column_names)
        dtype = getattr(split_source.features[column], "dtype", "list")
        if column not in columns and dtype not in ("string", "large_string"):
            raise DataError(
                f"Column {column} of split {split_name} of {data_config.dataset} holds no text."
            )
    split = split_source.select_columns(list(wanted.values()))
    # All at once: a pair may be [title, text], and title becomes text.
    return split.rename_columns({column: standard for standard, column in wanted.items()})


def _convert_to_label_lists(
    split: "Dataset", data_config: DataConfig, locate_row: RowLocator
) -> "Dataset":
    """A split with lists of labels, where these are several columns or in one cell."""
    if len(data_config.label_columns) > 1:
        return multilabel.merge_flag_columns(split, data_config.label_columns, locate_row)
    if data_config.label_separator is not None:
        return multilabel.split_separated_labels(
            split, data_config.label_separator, data_config.label_columns[0], locate_row
        )
    return split


def _is_entirely_unlabeled(split: "Dataset") -> bool:
    """Whether there are columns of labels, and no cell of them says anything."""
    columns = [
        name for name in split.column_names if name not in column_access.text_column_names(split)
    ]
    return bool(columns) and not any(
        schema_inference.has_any_label(column_access.iterate_column_values(split, name))
        for name in columns
    )


def _make_row_locator(
    data_config: DataConfig, split_name: str, split_source: "SplitSource"
) -> RowLocator:
    """Where the rows of a split stand, to name one that is wrong."""
    if isinstance(split_source, list):
        return lambda row: data_files.describe_row_location(split_source, row)
    return lambda row: f"{data_config.dataset}, split {split_name}, row {row + 1}"


def _check_no_empty_texts(split: "Dataset", locate_row: RowLocator) -> None:
    for column in column_access.text_column_names(split):
        for row, text in enumerate(column_access.iterate_column_values(split, column)):
            if not text or not text.strip():
                raise DataError(
                    f"{locate_row(row)}: there is no text.", "Write one, or delete the row."
                )
