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
    """A data set ready for use.

    Attributes:
        splits: `train`, `validation` and `test`, as far as they are there; each with the columns
            `text`, `text_pair` where the task is on pairs, and `label`: a ClassLabel, a list of
            them, or a number.
        label_names: The labels' names, in the order of their ids; of a score its column's name.
        notes: What was decided on the way that the user should know.
        task: What the labels are.
        has_labels: Whether the data has labels of its own; otherwise splits have no column `label`
            before the teacher has been asked.
        labels_are_ordered: Whether the data puts its labels in order; False where kd has sorted their names.
        source_split_names: By part, the split of the data set that its texts come from.
    """

    splits: dict[str, "Dataset"]
    label_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    task: Task = SINGLE_LABEL
    has_labels: bool = True
    labels_are_ordered: bool = True
    source_split_names: Mapping[str, str] = field(default_factory=dict)

    def present_labels(self, split: str) -> list[str]:
        """The names of the labels that occur in `split`; all, where it has none."""
        if "label" not in self.splits[split].column_names:
            return [*self.label_names]
        found = label_arrays.count_labels(self.splits[split], self.task, len(self.label_names))
        return [name for name, texts in zip(self.label_names, found, strict=True) if texts]

    def match_model_labels(
        self, model_labels: Sequence[str], present_labels: Sequence[str] | None = None
    ) -> list[int]:
        """For each label the model's output; see `kdcli.data.labels.match_labels`.

        Args:
            model_labels: The names of the model's outputs, in order.
            present_labels: The labels that need a match; left out, all.
        """
        return label_matching.match_labels(
            self.label_names,
            model_labels,
            present_labels=present_labels,
            labels_are_ordered=self.labels_are_ordered,
        )

    def with_model_label_names(self, model_labels: Sequence[str]) -> "DatasetSplits":
        """The same data with the names of a model's outputs, where its own labels have none."""
        nameless = label_matching.are_default_label_names(
            self.label_names
        ) and not label_matching.are_default_label_names(model_labels)
        if self.task is REGRESSION or not nameless or len(model_labels) != len(self.label_names):
            return self
        return replace(self, label_names=tuple(model_labels))

    def ground_truth_labels(
        self, split: "Dataset", model_indices: Sequence[int], output_count: int
    ) -> np.ndarray:
        """A split's labels, as `task.decide` gives a model's; see `kdcli.data.targets.truth`."""
        return label_arrays.ground_truth_labels(split, self.task, model_indices, output_count)

    def label_prior(self, model_labels: Sequence[str]) -> np.ndarray | None:
        """What the training texts' labels say before a text is read; see `Task.prior`.

        Args:
            model_labels: The labels' in the order of the model's outputs.
        """
        if self.task.prior_logits is None or not self.has_labels:
            return None
        places = self.match_model_labels(model_labels, self.present_labels("train"))
        return self.task.prior_logits(
            self.ground_truth_labels(self.splits["train"], places, len(model_labels))
        )
