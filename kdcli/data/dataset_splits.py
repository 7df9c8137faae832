"""A data set that is ready for use: splits, label names and task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data.labels import label_arrays, label_matching
from kdcli.tasks import REGRESSION, SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class DatasetSplits:
    """A dataset that is ready for use.

    Attributes:
        splits: `train`, `validation` and `test`, as far as they exist. Columns are `text`,
            `text_pair` for pairs, and `label`: a ClassLabel, a list of ClassLabels, or a number.
        label_names: The labels in the order of their ids; for scores, the name of their column.
        notes: What the user should know about how the data was read.
        task: The type of the labels.
        has_labels: Whether the data has labels. Otherwise splits have no column `label` until the
            teacher's predictions are added.
        labels_are_ordered: Whether the data defines the order of labels. False if kd sorted them.
        source_split_names: The dataset's own name of each split.
    """

    splits: dict[str, "Dataset"]
    label_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    task: Task = SINGLE_LABEL
    has_labels: bool = True
    labels_are_ordered: bool = True
    source_split_names: Mapping[str, str] = field(default_factory=dict)

    def present_labels(self, split: str) -> list[str]:
        """The labels that occur in a split; all labels if the split has no column `label`."""
        if "label" not in self.splits[split].column_names:
            return [*self.label_names]
        counts = label_arrays.count_labels(self.splits[split], self.task, len(self.label_names))
        return [name for name, count in zip(self.label_names, counts, strict=True) if count]

    def match_model_labels(
        self, model_labels: Sequence[str], present_labels: Sequence[str] | None = None
    ) -> list[int]:
        """The index of the model output for each label; see `label_matching.match_labels`.

        Args:
            model_labels: The names of the model's outputs, in order.
            present_labels: The labels that need a match. None is all.
        """
        return label_matching.match_labels(
            self.label_names,
            model_labels,
            present_labels=present_labels,
            labels_are_ordered=self.labels_are_ordered,
        )

    def with_model_label_names(self, model_labels: Sequence[str]) -> "DatasetSplits":
        """Take over the names of a model's outputs if the data's labels have no names."""
        nameless = label_matching.are_default_label_names(
            self.label_names
        ) and not label_matching.are_default_label_names(model_labels)
        if self.task is REGRESSION or not nameless or len(model_labels) != len(self.label_names):
            return self
        return replace(self, label_names=tuple(model_labels))

    def ground_truth_labels(
        self, split: "Dataset", model_indices: Sequence[int], output_count: int
    ) -> np.ndarray:
        """A split's labels as an array; see `label_arrays.ground_truth_labels`."""
        return label_arrays.ground_truth_labels(split, self.task, model_indices, output_count)

    def label_prior(self, model_labels: Sequence[str]) -> np.ndarray | None:
        """Logits of the label frequencies in train, (labels,); see `Task.prior_logits`.

        Args:
            model_labels: The names of the model's outputs, in order.
        """
        if self.task.prior_logits is None or not self.has_labels:
            return None
        model_indices = self.match_model_labels(model_labels, self.present_labels("train"))
        return self.task.prior_logits(
            self.ground_truth_labels(self.splits["train"], model_indices, len(model_labels))
        )
