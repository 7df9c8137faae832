"""Labels of any task: what they are, by the column that holds them, and as arrays."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from kdcli.data import column_access
from kdcli.data.labels import class_labels, multilabel
from kdcli.errors import DataError
from kdcli.recipe.data import DataConfig
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import Dataset

_FLOAT_DTYPES = ("float16", "float32", "float64")


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
