"""Labels of any task: what they are, by the column that holds them, and as arrays."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from kdcli.data import column_access
from kdcli.data.labels import class_labels, label_parsing, multilabel
from kdcli.data.labels.class_labels import RowLocator
from kdcli.errors import DataError
from kdcli.recipe.data import DataConfig
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, Task

if TYPE_CHECKING:
    from datasets import Dataset

_FLOAT_DTYPES = ("float16", "float32", "float64")


def standardize_labels(
    splits: Mapping[str, "Dataset"],
    data_config: DataConfig,
    row_locators: Mapping[str, RowLocator],
    notes: list[str],
) -> tuple[dict[str, "Dataset"], tuple[str, ...], Task, bool]:
    """Make the column `label` the same in every split, as the task wants it.

    Args:
        splits: Each with `label`, as it was found.
        data_config: Names the column, and perhaps the task.
        row_locators: By split, where its rows stand.
        notes: Told how labels were read, where that can be seen in more than one way.

    Returns:
        The splits, with a ClassLabel, a list of them, or float32; the labels' names, of a score
        its column's; the task; whether the data puts its labels in order, as a ClassLabel does.

    Raises:
        DataError: A label is missing or is none, or the task that is stated isn't theirs.
    """
    column = ", ".join(data_config.label_columns)
    splits = label_parsing.clean_label_cells(splits, column, row_locators, notes)
    task = _infer_task(splits, data_config, column, row_locators, notes)
    if task is REGRESSION:
        found = {
            part: _validate_scores(split, column, row_locators[part])
            for part, split in splits.items()
        }
        return found, (column,), task, True
    ordered = any(hasattr(_label_feature(split), "names") for split in splits.values())
    if task is MULTI_LABEL:
        found = multilabel.encode_multilabel_column(splits, column, row_locators, notes)
        names = next(iter(found.values())).features["label"].feature.names
    else:
        found = class_labels.encode_class_label_column(splits, column, row_locators, notes)
        names = next(iter(found.values())).features["label"].names
    notes += label_parsing.similar_label_notes(names)
    return found, tuple(names), task, ordered


def _label_feature(split: "Dataset") -> Any:
    feature = split.features["label"]
    return getattr(feature, "feature", feature)


def ground_truth_labels(
    split: "Dataset", task: Task, model_indices: Sequence[int], output_count: int
) -> np.ndarray:
    """A split's labels, as `task.decide` gives a model's.

    Args:
        split: With `label`, as `named` leaves it.
        task: What it is.
        model_indices: For each of the labels' ids the model's output; -1 where it has none.
        output_count: How many the model has.

    Returns:
        (rows,) outputs' ids; or (rows, outputs) whether each label is there; or (rows,) scores.
    """
    if task is REGRESSION:
        return column_access.label_scores(split)
    to_model = np.asarray(model_indices)
    if task is SINGLE_LABEL:
        return to_model[column_access.label_ids(split)]
    known = np.flatnonzero(to_model >= 0)
    there = np.zeros((len(split), output_count), dtype=bool)
    there[:, to_model[known]] = column_access.multi_hot_labels(split, len(to_model))[:, known]
    return there


def count_labels(split: "Dataset", task: Task, label_count: int) -> np.ndarray:
    """The texts that have each label, (labels,); each has its score."""
    if task is REGRESSION:
        return np.array([len(split)])
    if task is MULTI_LABEL:
        return column_access.multi_hot_labels(split, label_count).sum(0)
    return np.bincount(column_access.label_ids(split), minlength=label_count)


def label_with_predictions(
    split: "Dataset", predictions: np.ndarray, label_names: Sequence[str], task: Task
) -> "Dataset":
    """A split with the column `label` of what a model says.

    Args:
        split: Without it.
        predictions: What `task.decide` gives, (rows,) or (rows, labels).
        label_names: The labels', in the order of the model's outputs.
        task: What they are.
    """
    from datasets import ClassLabel

    if task is MULTI_LABEL:
        return multilabel.add_multilabel_column(split, predictions, label_names)
    if task is REGRESSION:
        return split.add_column("label", predictions.astype(np.float32))
    return split.add_column("label", predictions, feature=ClassLabel(names=[*label_names]))


def label_codes(split: "Dataset") -> np.ndarray:
    """A number for what each text is labelled, (rows,), below 2³²: the same where that is."""
    if "label" not in split.column_names:
        return np.zeros(len(split), dtype=np.int64)
    feature = split.features["label"]
    if hasattr(feature, "feature"):
        there = column_access.multi_hot_labels(split, len(feature.feature.names))
        return np.array([crc32(row) for row in np.packbits(there, axis=1)], dtype=np.int64)
    if feature.dtype in _FLOAT_DTYPES:
        return column_access.label_scores(split).view(np.uint32).astype(np.int64)
    return column_access.label_ids(split)


def check_labels_vary(
    train: "Dataset", label_names: Sequence[str], task: Task, data_config: DataConfig
) -> None:
    """Nothing can be learnt where all training texts are labelled alike.

    Raises:
        DataError: They are.
    """
    if task is REGRESSION:
        scores = column_access.label_scores(train)
        alone = f"one score only ({scores[0]:g})" if np.ptp(scores) == 0 else ""
    else:
        there = [
            n
            for n, texts in zip(
                label_names, count_labels(train, task, len(label_names)), strict=True
            )
            if texts
        ]
        alone = "" if len(there) > 1 else f"one class only ({there[0]})" if there else "no labels"
    if alone:
        raise DataError(
            f"Column {', '.join(data_config.label_columns)} of {data_config.dataset} holds {alone}.",
            class_labels.LABEL_COLUMN_HINT,
        )


def check_teacher_has_several_labels(label_names: Sequence[str], task: Task) -> None:
    """Refuse a teacher that has one label for all texts: its probability is always 1.

    Raises:
        DataError: There is one label, and each text has it.
    """
    if task is SINGLE_LABEL and len(label_names) < 2:
        raise DataError(
            f"The teacher has one label only ({', '.join(label_names)}), and each text gets it.",
            f"Take a teacher of several labels, or where it gives scores: data.task: {REGRESSION}.",
        )


def _infer_task(
    splits: Mapping[str, "Dataset"],
    data_config: DataConfig,
    column: str,
    row_locators: Mapping[str, RowLocator],
    notes: list[str],
) -> Task:
    """What the column holds, or may hold where the recipe says so."""
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
            f"data.task is {stated} ({stated.description}), and column {column} holds {what}, which "
            f"is {tasks[0]}.",
            _TASK_HINTS[stated.name],
        )
    return stated


_TASK_HINTS = {
    SINGLE_LABEL.name: "Write each label as a name or a number.",
    MULTI_LABEL.name: "Say what stands between the labels (data.label_separator), or name one "
    "column of 0 and 1 for each (data.label: [a, b]).",
    REGRESSION.name: "Write each score as a number.",
}


def _has_only_whole_numbers(split: "Dataset") -> bool:
    if getattr(split.features["label"], "dtype", "") not in _FLOAT_DTYPES:
        return True
    return all(value is None or value == int(value) for value in _finite_labels(split))


def _finite_labels(split: "Dataset") -> list[float]:
    return [v for v in split.unique("label") if v is not None and np.isfinite(v)]


def _validate_scores(split: "Dataset", column: str, locate_row: RowLocator) -> "Dataset":
    from datasets import Value

    if any(value is None or not np.isfinite(value) for value in split.unique("label")):
        for row, value in enumerate(column_access.iterate_column_values(split, "label")):
            if value is None or not np.isfinite(value):
                what = "there is no score" if value is None else f"{column} is {value}"
                raise DataError(f"{locate_row(row)}: {what}.", "Write a number, or delete the row.")
    scores = column_access.label_scores(split)
    return split.remove_columns("label").add_column("label", scores, feature=Value("float32"))
