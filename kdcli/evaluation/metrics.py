"""Figures of what a classifier gets right, as `evaluate` metrics that need no network."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score, recall_score


class _LabelMetric(evaluate.Metric):
    """A metric of predicted against reference class ids."""

    def _info(self) -> evaluate.MetricInfo:
        ids = {name: datasets.Value("int64") for name in ("predictions", "references")}
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions and references: class ids, one for each text.",
            features=datasets.Features(ids),
        )


class Accuracy(_LabelMetric):
    """The share of texts that get their reference label. Agreement is this between two models."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(_LabelMetric):
    """F1 of each class, averaged over classes: a rare class counts as much as a common one."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        score = f1_score(references, predictions, average="macro", zero_division=0)
        return {"macro_f1": float(score)}


class OutOfScope(_LabelMetric):
    """Accuracy on in-scope texts, and recall of the label that stands for none of the others.

    Kept apart because their mix is an accident of the split: a model that refuses more texts
    gains on a split that has many to refuse.
    """

    def _compute(self, predictions: Any, references: Any, label: int) -> dict[str, float]:
        references, predictions = np.asarray(references), np.asarray(predictions)
        inside = references != label
        figures = {}
        if inside.any():
            score = accuracy_score(references[inside], predictions[inside])
            figures["in_scope_accuracy"] = float(score)
        if not inside.all():
            score = recall_score(references == label, predictions == label)
            figures["out_of_scope_recall"] = float(score)
        return figures


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """The share of equal ids, between 0 and 1.

    Args:
        predictions: (texts,) class ids.
        references: (texts,) class ids.
    """
    return _compute(Accuracy(keep_in_memory=True), predictions, references)["accuracy"]


def figures(
    predictions: np.ndarray,
    references: np.ndarray,
    teacher: np.ndarray | None = None,
    out_of_scope: int | None = None,
) -> dict[str, float]:
    """All figures of one model on one split.

    Args:
        predictions: (texts,) the model's class ids.
        references: (texts,) the data's.
        teacher: (texts,) the teacher's, for the agreement with it.
        out_of_scope: The id of the out-of-scope label, where one is named.
    """
    found = {"accuracy": accuracy(predictions, references)}
    found |= _compute(MacroF1(keep_in_memory=True), predictions, references)
    if out_of_scope is not None:
        metric = OutOfScope(keep_in_memory=True)
        found |= _compute(metric, predictions, references, label=out_of_scope)
    if teacher is not None:
        found["agreement"] = accuracy(predictions, teacher)
    return found


def _compute(
    metric: evaluate.Metric, predictions: np.ndarray, references: np.ndarray, **options: Any
) -> dict[str, float]:
    found: dict[str, float] = metric.compute(
        predictions=predictions, references=references, **options
    )
    return found
