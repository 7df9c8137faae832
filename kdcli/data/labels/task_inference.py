"""Task of a data set, and one type of labels for all of its splits."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data import column_access
from kdcli.data.column_access import RowLocator
from kdcli.data.labels import class_labels, label_parsing, multilabel_encoding
from kdcli.errors import DataError
from kdcli.recipe.data import DataConfig
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, Task

if TYPE_CHECKING:
    from datasets import Dataset

_FLOAT_DTYPES = ("float16", "float32", "float64")
_TASK_HINTS = {
    SINGLE_LABEL.name: "Write each label as a name or a number.",
    MULTI_LABEL.name: "Say what stands between the labels (data.label_separator), or name one "
    "column of 0 and 1 for each (data.label: [a, b]).",
    REGRESSION.name: "Write each score as a number.",
}


def infer_task_and_unify_labels(
    splits: Mapping[str, "Dataset"],
    data_config: DataConfig,
    row_locators: Mapping[str, RowLocator],
    notes: list[str],
) -> tuple[dict[str, "Dataset"], tuple[str, ...], Task, bool]:
    """Infer the task, and give the column `label` the same type in all splits.

    Args:
        splits: Splits with `label`, as read.
        data_config: The label columns, and the task if the recipe states it.
        row_locators: For each split, a function that describes where a row stands.
        notes: Gets a sentence for each label that could be read in more than one way.

    Returns:
        The splits, with `label` as a ClassLabel, a list of ClassLabels, or float32; the label
        names, or for scores the name of the column; the task; whether the data defines the order
        of its labels, as a ClassLabel does.

    Raises:
        DataError: A label is missing or invalid, or the recipe's task doesn't fit the column.
    """
    column = ", ".join(data_config.label_columns)
    splits = label_parsing.parse_label_cells(splits, column, row_locators, notes)
    task = _infer_task(splits, data_config, column, row_locators, notes)
    if task is REGRESSION:
        scores = {
            part: _validate_scores(split, column, row_locators[part])
            for part, split in splits.items()
        }
        return scores, (column,), task, True
    ordered = any(hasattr(_label_feature(split), "names") for split in splits.values())
    if task is MULTI_LABEL:
        encoded = multilabel_encoding.encode_label_id_lists(splits, column, row_locators, notes)
        names = next(iter(encoded.values())).features["label"].feature.names
    else:
        encoded = class_labels.encode_class_label_column(splits, column, row_locators, notes)
        names = next(iter(encoded.values())).features["label"].names
    notes += label_parsing.similar_label_notes(names)
    return encoded, tuple(names), task, ordered


def _label_feature(split: "Dataset") -> Any:
    feature = split.features["label"]
    return getattr(feature, "feature", feature)


def _infer_task(
    splits: Mapping[str, "Dataset"],
    data_config: DataConfig,
    column: str,
    row_locators: Mapping[str, RowLocator],
    notes: list[str],
) -> Task:
    """The task of the label columns: the recipe's, if it fits them, or the usual one."""
    features = {part: split.features["label"] for part, split in splits.items()}
    lists = {hasattr(feature, "feature") for feature in features.values()}
    dtypes = [getattr(feature, "dtype", "list") for feature in features.values()]
    if lists == {True, False}:
        raise DataError(f"Column {column} holds lists in some splits, and not in others.")
    what = "names"
    tasks: tuple[Task, ...] = (SINGLE_LABEL,)
    if lists == {True}:
        for part, split in splits.items():
            if hasattr(_label_feature(split), "feature"):
                raise DataError(
                    f"{row_locators[part](0)}: {column} holds lists of lists.",
                    "A row has one list of labels.",
                )
        what, tasks = "lists of labels", (MULTI_LABEL,)
    elif any(dtype in _FLOAT_DTYPES for dtype in dtypes):
        numbers = all(dtype.startswith(("int", "uint", "float")) for dtype in dtypes)
        if not numbers and data_config.task != SINGLE_LABEL.name:
            raise DataError(
                f"Column {column} holds fractions in some splits, and names in others.",
                f"Where they are names, say so: data.task: {SINGLE_LABEL}.",
            )
        if data_config.task is None and all(map(_has_only_whole_numbers, splits.values())):
            part, split = next(
                (p, s) for p, s in splits.items() if features[p].dtype in _FLOAT_DTYPES
            )
            raise DataError(
                f"{row_locators[part](0)}: {column} is {split[0]['label']}: is that a score?",
                f"Say so (data.task: {REGRESSION}), or that it is a label: {SINGLE_LABEL}.",
            )
        what, tasks = "fractions", (REGRESSION, SINGLE_LABEL)
        if data_config.task is None:
            notes.append(
                f"{column} holds fractions: they are scores. Where they are the names of labels, "
                f"say so (data.task: {SINGLE_LABEL})."
            )
    elif all(dtype.startswith(("int", "uint")) for dtype in dtypes) and not any(
        hasattr(feature, "names") for feature in features.values()
    ):
        what, tasks = "whole numbers", (SINGLE_LABEL, REGRESSION)
    stated = TASKS[data_config.task] if data_config.task else tasks[0]
    if stated not in tasks:
        raise DataError(
            f"data.task is {stated} ({stated.description}), and column {column} holds {what}, "
            f"which is {tasks[0]}.",
            _TASK_HINTS[stated.name],
        )
    return stated


def _has_only_whole_numbers(split: "Dataset") -> bool:
    if getattr(split.features["label"], "dtype", "") not in _FLOAT_DTYPES:
        return True
    return all(value is None or value == int(value) for value in _finite_labels(split))


def _finite_labels(split: "Dataset") -> list[float]:
    return [v for v in split.unique("label") if v is not None and np.isfinite(v)]


def _is_float32_score(value: float | None) -> bool:
    """Return whether a value is a number that stays finite in float32, as models compute."""
    return value is not None and bool(abs(value) <= np.finfo(np.float32).max)


def _validate_scores(split: "Dataset", column: str, locate_row: RowLocator) -> "Dataset":
    from datasets import Value

    if not all(map(_is_float32_score, split.unique("label"))):
        for row, value in enumerate(column_access.iterate_column_values(split, "label")):
            if not _is_float32_score(value):
                what = "there is no score" if value is None else f"{column} is {value}"
                raise DataError(f"{locate_row(row)}: {what}.", "Write a number, or delete the row.")
    scores = column_access.regression_scores(split)
    return split.remove_columns("label").add_column("label", scores, feature=Value("float32"))
