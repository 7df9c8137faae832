"""Labels of any task as numpy arrays, and checks of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from kdcli.data import column_access
from kdcli.data.labels import class_labels, multilabel_encoding
from kdcli.errors import DataError
from kdcli.recipe.data import DataConfig
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import Dataset

_FLOAT_DTYPES = ("float16", "float32", "float64")


def ground_truth_labels(
    split: "Dataset", task: Task, model_indices: Sequence[int], output_count: int
) -> np.ndarray:
    """The labels of a split in the form of a model's predictions (`task.predict`).

    Args:
        split: A split with `label`, as `infer_task_and_unify_labels` returns it.
        task: The type of the labels.
        model_indices: For each label id the index of the model's output; -1 if there is none.
        output_count: The number of the model's outputs.

    Returns:
        Output indices, (rows,); or multi-hot labels, bool, (rows, outputs); or scores, (rows,).
    """
    if task is REGRESSION:
        return column_access.regression_scores(split)
    output_of_label = np.asarray(model_indices, dtype=np.int64)
    if task is SINGLE_LABEL:
        return output_of_label[column_access.label_ids(split)]
    known = np.flatnonzero(output_of_label >= 0)
    multi_hot = column_access.multi_hot_labels(split, len(output_of_label))
    outputs = np.zeros((len(split), output_count), dtype=bool)
    outputs[:, output_of_label[known]] = multi_hot[:, known]
    return outputs


def count_labels(split: "Dataset", task: Task, label_count: int) -> np.ndarray:
    """Count the texts of each label, (labels,); for scores, all texts, (1,)."""
    if task is REGRESSION:
        return np.array([len(split)])
    if task is MULTI_LABEL:
        return column_access.multi_hot_labels(split, label_count).sum(0)
    return np.bincount(column_access.label_ids(split), minlength=label_count)


def label_with_predictions(
    split: "Dataset", predictions: np.ndarray, label_names: Sequence[str], task: Task
) -> "Dataset":
    """Add a column `label` with a model's predictions.

    Args:
        split: A split without labels.
        predictions: The result of `task.predict`: (rows,), or (rows, labels).
        label_names: The names of the model's outputs, in order.
        task: The type of the labels.
    """
    from datasets import ClassLabel

    if task is MULTI_LABEL:
        return multilabel_encoding.add_label_id_lists(split, predictions, label_names)
    if task is REGRESSION:
        return split.add_column("label", predictions.astype(np.float32))
    return split.add_column("label", predictions, feature=ClassLabel(names=[*label_names]))


def label_codes(split: "Dataset") -> np.ndarray:
    """An integer for each text's labels, (rows,), below 2³²: equal for equal labels."""
    if "label" not in split.column_names:
        return np.zeros(len(split), dtype=np.int64)
    feature = split.features["label"]
    if hasattr(feature, "feature"):
        multi_hot = column_access.multi_hot_labels(split, len(feature.feature.names))
        return np.array([crc32(row) for row in np.packbits(multi_hot, axis=1)], dtype=np.int64)
    if feature.dtype in _FLOAT_DTYPES:
        return column_access.regression_scores(split).view(np.uint32).astype(np.int64)
    return column_access.label_ids(split)


def check_labels_vary(
    train: "Dataset", label_names: Sequence[str], task: Task, data_config: DataConfig
) -> None:
    """Refuse training data in which all texts have the same label or score.

    Raises:
        DataError: They have.
    """
    if task is REGRESSION:
        scores = column_access.regression_scores(train)
        alone = f"one score only ({scores[0]:g})" if np.ptp(scores) == 0 else ""
    else:
        present = [
            n
            for n, texts in zip(
                label_names, count_labels(train, task, len(label_names)), strict=True
            )
            if texts
        ]
        alone = (
            "" if len(present) > 1 else f"one class only ({present[0]})" if present else "no labels"
        )
    if alone:
        raise DataError(
            f"Column {', '.join(data_config.label_columns)} of {data_config.dataset} "
            f"holds {alone}.",
            class_labels.LABEL_COLUMN_HINT,
        )


def check_teacher_has_several_labels(label_names: Sequence[str], task: Task) -> None:
    """Refuse a single-label teacher with one label: its probability is always 1.

    Raises:
        DataError: The teacher has fewer than two labels.
    """
    if task is SINGLE_LABEL and len(label_names) < 2:
        raise DataError(
            f"The teacher has one label only ({', '.join(label_names)}), and each text gets it.",
            f"Take a teacher of several labels, or where it gives scores: data.task: {REGRESSION}.",
        )
