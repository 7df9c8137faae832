"""Labels of the data as outputs of a model: matching by name, number or position."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data.labels import label_arrays
from kdcli.data.labels.label_parsing import label_names_by_number
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
    """For each of the data's labels, the model's id of the same name.

    Where names differ, labels that are numbers are matched by number: "7" is LABEL_7. Where one
    side has no names at all (LABEL_0, LABEL_1, …), labels are matched by place, if the data's have
    an order of their own. A model of a single output has a score to give.

    Args:
        data_labels: The data's label names, in the order of its ids.
        model_labels: The model's label names, in the order of its outputs.
        present_labels: The data's labels that occur; the others need no match and get -1.
        labels_are_ordered: Whether the data itself puts its labels in order; False where kd has sorted them.

    Raises:
        ModelError: A label that occurs is unknown to the model; both lists are in the message.
    """
    if len(model_labels) == len(data_labels) == 1:
        return [0]
    occur = data_labels if present_labels is None else present_labels
    ids = {name: i for i, name in enumerate(model_labels)}
    if unknown := [name for name in occur if name not in ids]:
        known, wanted = label_names_by_number(model_labels), label_names_by_number(occur)
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
                f"The model's outputs have no names ({abbreviate_list(model_labels)}), and nothing says which of "
                f"them the data's labels are: {abbreviate_list(data_labels)}.",
                "Name them in its config.json (id2label), or write the labels as the outputs' "
                "numbers, from 0.",
            )
        raise ModelError(
            f"The model doesn't know the label {unknown[0]!r}: the data has {abbreviate_list(data_labels)}, "
            f"the model {abbreviate_list(model_labels)}.",
            "Rename the labels of one, or fine-tune the model on this data.",
        )
    return [ids.get(name, -1) for name in data_labels]


def explain_label_match(data_labels: Sequence[str], model_labels: Sequence[str]) -> str | None:
    """How labels of other names were matched, for the user; None where names are the same."""
    if len(model_labels) < 2 or are_default_label_names(data_labels) == are_default_label_names(
        model_labels
    ):
        return None
    if (
        label_names_by_number(data_labels) is not None
        and label_names_by_number(model_labels) is not None
    ):
        return "labels are matched with the data's by number"
    if are_default_label_names(model_labels):
        return "labels have no names: they are taken in the data's order"
    return "labels name those of the data, which have no names, in order"


def are_default_label_names(labels: Sequence[str]) -> bool:
    """Whether these are the names that transformers makes up where nobody gave any."""
    return list(labels) == [f"LABEL_{i}" for i in range(len(labels))]


def map_labels_to_model(
    tokenized: "Dataset", dataset_splits: "DatasetSplits", model_labels: Sequence[str]
) -> "Dataset":
    """Replace `label` by `labels`, as the model's outputs have them.

    The id of its own label list; 0 or 1 for each of its labels; or a score. Where there is no
    `label`, all of them are missing: `task.missing`.
    """
    if "label" not in tokenized.column_names:
        return tokenized.add_column(
            "labels", _missing_labels(len(tokenized), len(model_labels), dataset_splits.task)
        )
    count = len(dataset_splits.label_names)
    there = label_arrays.count_labels(tokenized, dataset_splits.task, count)
    present = [name for name, texts in zip(dataset_splits.label_names, there, strict=True) if texts]
    to_model = dataset_splits.match_model_labels(model_labels, present)
    truth = dataset_splits.ground_truth_labels(tokenized, to_model, len(model_labels))
    rest = tokenized.remove_columns("label")
    if truth.ndim == 1:
        return rest.add_column("labels", truth)
    return rest.add_column("labels", _fixed_size_lists(truth.astype(np.int8)))


def labels_to_numpy(tokenized: "Dataset") -> np.ndarray:
    """What `with_model_labels` has written: (rows,), or (rows, labels)."""
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
