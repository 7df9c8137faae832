"""Labels of the data as outputs of a model: matching by name, number or position."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data.labels import label_arrays
from kdcli.data.labels.label_parsing import parse_numbered_label_names
from kdcli.errors import ModelError
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import MULTI_LABEL, REGRESSION, Task

if TYPE_CHECKING:
    from datasets import Dataset

    from kdcli.data.dataset_splits import DatasetSplits


def match_labels(
    data_labels: Sequence[str],
    model_labels: Sequence[str],
    *,
    present_labels: Sequence[str] | None = None,
    labels_are_ordered: bool = True,
) -> list[int]:
    """Match the data's labels with the model's outputs: the output index of each label.

    Labels are matched by name. Otherwise they are matched by number, if all are numbers: "7" is
    LABEL_7. If one side has only default names (LABEL_0, LABEL_1, …), they are matched by position,
    provided that the data defines the order of its labels. A single output is a score.

    Args:
        data_labels: The data's labels, in the order of their ids.
        model_labels: The model's labels, in the order of its outputs.
        present_labels: The data's labels that occur. The others need no match and get -1.
        labels_are_ordered: Whether the data defines the order of its labels. False if kd sorted
            them.

    Raises:
        ModelError: A label that occurs has no output; the message shows both lists.
    """
    if len(model_labels) == len(data_labels) == 1:
        return [0]
    occur = data_labels if present_labels is None else present_labels
    ids = {name: i for i, name in enumerate(model_labels)}
    if unknown := [name for name in occur if name not in ids]:
        known, wanted = parse_numbered_label_names(model_labels), parse_numbered_label_names(occur)
        if known is not None and wanted is not None and wanted.keys() <= known.keys():
            ids = {name: ids[known[number]] for number, name in wanted.items()}
            return [ids.get(name, -1) for name in data_labels]
        alike = len(model_labels) == len(data_labels)
        if alike and (
            are_default_label_names(data_labels)
            or (are_default_label_names(model_labels) and labels_are_ordered)
        ):
            return list(range(len(data_labels)))
        if alike and are_default_label_names(model_labels):
            raise ModelError(
                f"The model's outputs have no names ({abbreviate_list(model_labels)}), and nothing "
                "says which of them the data's labels are: "
                f"{abbreviate_list(data_labels)}.",
                "Name the outputs in config.json (id2label), or write each label as the number of "
                "its output, from 0.",
            )
        raise ModelError(
            f"The model doesn't know the label {unknown[0]!r}: the data has "
            f"{abbreviate_list(data_labels)}, the model {abbreviate_list(model_labels)}.",
            "Rename the labels of one, or fine-tune the model on this data.",
        )
    return [ids.get(name, -1) for name in data_labels]


def explain_label_match(data_labels: Sequence[str], model_labels: Sequence[str]) -> str | None:
    """Describe for the user how labels were matched; None if they were matched by name."""
    if len(model_labels) < 2 or are_default_label_names(data_labels) == are_default_label_names(
        model_labels
    ):
        return None
    if (
        parse_numbered_label_names(data_labels) is not None
        and parse_numbered_label_names(model_labels) is not None
    ):
        return "labels are matched with the data's by number"
    if are_default_label_names(model_labels):
        return "labels have no names: they are taken in the data's order"
    return "labels name those of the data, which have no names, in order"


def are_default_label_names(labels: Sequence[str]) -> bool:
    """Return whether all labels have the default names of transformers: LABEL_0, LABEL_1, etc."""
    return list(labels) == [f"LABEL_{i}" for i in range(len(labels))]


def map_labels_to_model(
    tokenized: "Dataset", dataset_splits: "DatasetSplits", model_labels: Sequence[str]
) -> "Dataset":
    """Replace the column `label` by `labels`, in the order of the model's outputs.

    `labels` holds output indices, multi-hot lists of int8, or scores. Without a column `label`, it
    holds the task's mark of a missing label.

    Args:
        tokenized: The rows, with or without `label`.
        dataset_splits: The dataset that they belong to.
        model_labels: The names of the model's outputs, in order.
    """
    if "label" not in tokenized.column_names:
        return tokenized.add_column(
            "labels", _missing_labels(len(tokenized), len(model_labels), dataset_splits.task)
        )
    count = len(dataset_splits.label_names)
    counts = label_arrays.count_labels(tokenized, dataset_splits.task, count)
    present = [name for name, n in zip(dataset_splits.label_names, counts, strict=True) if n]
    model_indices = dataset_splits.match_model_labels(model_labels, present)
    truth = dataset_splits.ground_truth_labels(tokenized, model_indices, len(model_labels))
    unlabeled = tokenized.remove_columns("label")
    if truth.ndim == 1:
        return unlabeled.add_column("labels", truth)
    return unlabeled.add_column("labels", _fixed_size_lists(truth.astype(np.int8)))


def labels_to_numpy(tokenized: "Dataset") -> np.ndarray:
    """The column `labels` of `map_labels_to_model` as an array: (rows,) or (rows, labels)."""
    column = tokenized.select_columns("labels").with_format("arrow")[:]["labels"].combine_chunks()
    width = getattr(column.type, "list_size", None)
    return column.to_numpy() if width is None else column.flatten().to_numpy().reshape(-1, width)


def _missing_labels(row_count: int, output_count: int, task: Task) -> Any:
    if task is MULTI_LABEL:
        return _fixed_size_lists(
            np.full((row_count, output_count), task.missing_label, dtype=np.int8)
        )
    return np.full(
        row_count, task.missing_label, dtype=np.float32 if task is REGRESSION else np.int64
    )


def _fixed_size_lists(values: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
