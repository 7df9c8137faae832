"""Loading of datasets: from a Hub id, a file or a folder to splits of texts and labels."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.data import column_access, schema_inference
from kdcli.data.checks import duplicates
from kdcli.data.column_access import RowLocator
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.labels import label_arrays, multilabel_encoding, task_inference
from kdcli.data.readers import data_files, registry, split_files
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
    """Key of the data for cached stages; nothing is downloaded.

    Local data counts by its content, a Hub dataset by id and revision: pin a commit if its branch
    moves.
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
    """Load the dataset of a recipe.

    Args:
        data_config: The dataset, its columns and its splits.
        seed: Seed of the validation split, if one has to be held out of train.
        require_train: Whether the data is trained on: train must exist and have at least two
            labels, and a validation split is held out if there is none. For evaluation alone, any
            split is enough.
        teacher_labels: For data without labels: the teacher's label names and their task.

    Raises:
        DataError: The dataset, a split, a column or a label is missing or unusable.
        RemoteServiceError: The Hub can't be reached.
    """
    notes: list[str] = []
    splits, row_locators, source_names = read_splits(
        data_config, notes, require_train=require_train
    )
    for part, split in splits.items():
        _check_no_empty_texts(split, row_locators[part])
    if teacher_labels is None:
        splits, names, task, ordered = task_inference.infer_task_and_unify_labels(
            splits, data_config, row_locators, notes
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
        source_names["validation"] = f"{source_names['train']}, held out"
        how = "stratified by label" if by_label else "at random"
        notes.append(
            f"There is no validation split: {len(splits['validation']):,} of the "
            f"{len(splits['train']) + len(splits['validation']):,} training texts were set aside "
            f"({how}, seed {seed})."
        )
    return DatasetSplits(
        splits,
        names,
        (*notes, *duplicates.duplicate_notes(splits)),
        task,
        teacher_labels is None,
        ordered,
        source_names,
    )


def read_splits(
    data_config: DataConfig, notes: list[str], *, require_train: bool = False
) -> tuple[dict[str, "Dataset"], dict[str, RowLocator], dict[str, str]]:
    """Read the splits of a dataset, unchecked: texts may be empty, labels missing or unencoded.

    A test split without any label is left out: nothing can be measured on it.

    Args:
        data_config: The dataset, its columns and its splits.
        notes: Gets a sentence for each decision that the user should know.
        require_train: Whether there must be a train split.

    Returns:
        Three dicts with the keys `train`, `validation` and `test`, as far as they exist: the
        splits, with `text` (and `text_pair`) and `label`, if there are labels; a function that
        describes where a row stands; the dataset's own name of the split.

    Raises:
        DataError: The dataset, all splits, or a column are missing or unusable.
        RemoteServiceError: The Hub can't be reached.
    """
    available = find_splits(data_config, notes)
    parts = dict(assign_split_roles(data_config, available))
    if require_train and "train" not in parts:
        wanted = split_files.describe_split_source(data_config.splits.train)
        raise DataError(f"There is no split {wanted} to train on in {data_config.dataset}.")
    if not parts:
        raise DataError(
            f"There is no split train, validation or test in {data_config.dataset}; "
            f"there is {', '.join(available)}.",
            "Say which is which: data.splits.",
        )
    splits, row_locators = {}, {}
    for part, name in [*parts.items()]:
        locate_row = _make_row_locator(data_config, name, available[name])
        try:
            split = _standardize_columns(data_config, name, available[name], notes)
            unlabeled = part == "test" and _is_entirely_unlabeled(split)
        except MissingColumnError as error:
            unlabeled = part == "test" and error.key == "label"
            unlabeled = unlabeled and set(data_config.label_columns).isdisjoint(
                error.available_columns
            )
            if not unlabeled:
                raise
        if unlabeled:
            del parts[part]
            notes.append(
                f"The test split {name} of {data_config.dataset} has no labels, and is left out: "
                "nothing can be measured on it. The finished student can label its texts."
            )
            continue
        splits[part] = _convert_to_label_lists(split, data_config, locate_row)
        row_locators[part] = locate_row
    if not splits:
        raise DataError(
            f"{data_config.dataset} has no labels to measure by.", "Name another: data.label."
        )
    return splits, row_locators, parts


def load_texts_without_labels(data_config: DataConfig, notes: list[str]) -> "Dataset":
    """Load the texts of the train split, or else of the first split, without labels.

    Args:
        data_config: The dataset, its text columns and its splits.
        notes: Gets a sentence for each decision that the user should know.

    Raises:
        DataError: The dataset or a column is missing or unusable.
        RemoteServiceError: The Hub can't be reached.
    """
    data_config = data_config.model_copy(update={"label": None, "label_separator": None})
    available = find_splits(data_config, notes)
    _, name = next(assign_split_roles(data_config, available), ("train", next(iter(available))))
    split = _standardize_columns(data_config, name, available[name], notes)
    _check_no_empty_texts(split, _make_row_locator(data_config, name, available[name]))
    return split


def find_splits(data_config: DataConfig, notes: list[str]) -> "Mapping[str, SplitSource]":
    """Find the splits of a dataset: data files, or datasets that are loaded already.

    Raises:
        DataError: There is no such dataset, or it is unusable.
        RemoteServiceError: The Hub can't be reached.
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


def check_local_columns(data_config: DataConfig) -> bool:
    """Check that local data exists and has the columns that the recipe names, by its first rows.

    Returns:
        False if the data is on the Hub, and was not looked at.

    Raises:
        DataError: There is no such file, split or column.
    """
    path = Path(data_config.dataset)
    is_path = path.is_absolute() or registry.file_format(path) is not None
    if not (is_path or split_files.is_local_dataset(data_config)):
        return False
    found = find_splits(data_config, [])
    for _, name in assign_split_roles(data_config, found):
        split = found[name]
        rows = (
            data_files.read_first_rows(split, 1, [])
            if isinstance(split, list)
            else data_files.first_dataset_rows(split, 1)
        )
        wanted = (("text", data_config.text_columns), ("label", data_config.label_columns))
        for key, columns in wanted:
            for column in columns:
                if rows and column not in rows[0]:
                    raise MissingColumnError(key, column, data_config.dataset, [*rows[0]])
    return True


def assign_split_roles(
    data_config: DataConfig, available_splits: "Mapping[str, SplitSource]"
) -> Iterator[tuple[str, str]]:
    """Assign splits to `train`, `validation` and `test`: (part, split name) pairs."""
    stated = data_config.splits.explicit_splits
    taken = {
        split_files.describe_split_source(split) for split in stated.values() if split is not None
    }
    for part, usual in _DEFAULT_SPLIT_NAMES.items():
        split = stated.get(part)
        wanted = None if split is None else split_files.describe_split_source(split)
        if wanted is None and part in stated:
            continue
        if wanted is None:
            # A split that the recipe gives another part is not taken by its name.
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
    """Select the columns of texts and labels, and rename them to `text`, `text_pair`, `label`."""
    texts = data_config.text_columns
    columns = data_config.label_columns
    has_one = len(columns) == 1
    standard_names = dict(
        zip(
            columns,
            ["label"] if has_one else multilabel_encoding.temporary_flag_columns(columns),
            strict=True,
        )
    )
    columns_by_name = dict(zip(column_access.TEXT_COLUMNS, texts, strict=False))
    columns_by_name |= {standard: column for column, standard in standard_names.items()}
    if len(set(columns_by_name.values())) < len(texts) + len(columns):
        raise DataError(
            f"Text and label are columns of their own, not {', '.join(texts + columns)}."
        )
    if isinstance(split_source, list):
        numbers = data_config.label_separator is None and data_config.task != SINGLE_LABEL.name
        split_source = data_files.read_text_and_label_columns(
            split_source, texts, columns, notes, parse_fractions=numbers
        )
    for column in columns_by_name.values():
        if column not in split_source.column_names:
            key = "label" if column in columns else "text"
            where = f"split {split_name} of {data_config.dataset}"
            raise MissingColumnError(key, column, where, split_source.column_names)
        dtype = getattr(split_source.features[column], "dtype", "list")
        if column not in columns and dtype not in ("string", "large_string"):
            raise DataError(
                f"Column {column} of split {split_name} of {data_config.dataset} holds no text."
            )
    split = split_source.select_columns(list(columns_by_name.values()))
    # All at once: a pair may be [title, text], and title becomes text.
    return split.rename_columns({column: standard for standard, column in columns_by_name.items()})


def _convert_to_label_lists(
    split: "Dataset", data_config: DataConfig, locate_row: RowLocator
) -> "Dataset":
    """Turn several label columns, or cells with separators, into lists of labels."""
    if len(data_config.label_columns) > 1:
        return multilabel_encoding.merge_flag_columns(split, data_config.label_columns, locate_row)
    if data_config.label_separator is not None:
        return multilabel_encoding.split_separated_labels(
            split, data_config.label_separator, data_config.label_columns[0], locate_row
        )
    return split


def _is_entirely_unlabeled(split: "Dataset") -> bool:
    """Return whether there are label columns, and none of their cells has a label."""
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
    """A function that describes where a row stands, for error messages."""
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
