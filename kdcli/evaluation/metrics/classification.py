"""Figures of what a classifier gets right, as `evaluate` metrics that need no network.

Each is scikit-learn's own; what else `figures.py` reports builds on the same arrays.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
    top_k_accuracy_score,
)

TOP_K_VALUES = (3, 5)


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


class ClassificationMetrics(_LabelMetric):
    """Accuracy, its mean over the classes that occur, and F1 averaged in three ways.

    Balanced accuracy and macro F1 count a rare class as much as a common one, weighted F1 counts
    it by its texts, and micro F1 equals accuracy where each text has one label.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        recall = recall_score(
            references, predictions, labels=np.unique(references), average="macro", zero_division=0
        )
        found = {
            "accuracy": accuracy_score(references, predictions),
            "balanced_accuracy": recall,
        } | {
            f"{average}_f1": f1_score(references, predictions, average=average, zero_division=0)
            for average in ("macro", "micro", "weighted")
        }
        return {name: float(value) for name, value in found.items()}


class ProbabilityMetrics(_LabelMetric):
    """What the probabilities are worth: log loss (nats), Brier score (0 to 2), top-k accuracy.

    Log loss and Brier score are proper: only the true probabilities are best at them.
    """

    def _compute(
        self, predictions: Any, references: Any, probabilities: np.ndarray
    ) -> dict[str, float]:
        labels = np.arange(probabilities.shape[1])
        found = {
            "log_loss": log_loss(references, probabilities, labels=labels),
            "brier": brier_score_loss(
                references, probabilities, labels=labels, scale_by_half=False
            ),
        } | {
            f"top_{k}_accuracy": top_k_accuracy_score(references, probabilities, k=k, labels=labels)
            for k in TOP_K_VALUES
            if k < len(labels)
        }
        return {name: float(value) for name, value in found.items()}


class OutOfScopeMetrics(_LabelMetric):
    """Accuracy on in-scope texts, and recall of the label that stands for none of the others.

    Kept apart because their mix is an accident of the split: a model that refuses more texts
    gains on a split that has many to refuse. What it costs is the share of in-scope texts that
    are refused.
    """

    def _compute(self, predictions: Any, references: Any, label: int) -> dict[str, float]:
        references, predictions = np.asarray(references), np.asarray(predictions)
        inside = references != label
        figures = {}
        if inside.any():
            score = accuracy_score(references[inside], predictions[inside])
            figures["in_scope_accuracy"] = float(score)
            figures["in_scope_refused"] = float((predictions[inside] == label).mean())
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
    return compute_metric(Accuracy, predictions, references)["accuracy"]


def compute_metric(
    metric_class: type[_LabelMetric],
    predictions: np.ndarray,
    references: np.ndarray,
    **options: Any,
) -> dict[str, float]:
    """What a metric of this module finds.

    Args:
        metric_class: One of the classes above.
        predictions: (texts,) the model's class ids.
        references: (texts,) the data's.
        **options: What else the metric takes.
    """
    found: dict[str, float] = metric_class(keep_in_memory=True).compute(
        predictions=predictions, references=references, **options
    )
    return found


def per_class_metrics(
    predictions: np.ndarray, references: np.ndarray, labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each class that occurs or is predicted.

    Args:
        predictions: (texts,) the model's class ids.
        references: (texts,) the data's.
        labels: The classes' names, by id.
    """
    ids = np.union1d(references, predictions)
    columns = precision_recall_fscore_support(references, predictions, labels=ids, zero_division=0)
    return [
        {
            "label": labels[i],
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
        }
        for i, precision, recall, f1, support in zip(ids, *columns, strict=True)
    ]


def reference_label_ranks(probabilities: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the rank of each reference label, from 0, as `top_k_accuracy_score` counts it.

    Of equal probabilities, that of the highest class id ranks first.

    Args:
        probabilities: (texts, classes).
        references: (texts,) class ids.
    """
    right = np.take_along_axis(probabilities, references[:, None], axis=1)
    later = np.arange(probabilities.shape[1]) > references[:, None]
    found: np.ndarray = ((probabilities > right) | ((probabilities == right) & later)).sum(-1)
    return found


def sparse_confusion_matrix(
    predictions: np.ndarray, references: np.ndarray
) -> list[tuple[int, int, int]]:
    """The cells of the confusion matrix that aren't 0: (reference id, predicted id, texts).

    With 151 classes 22,801 cells hold a few hundred numbers, so only these are kept.
    """
    cells, texts = np.unique(np.stack([references, predictions]), axis=1, return_counts=True)
    return [(int(i), int(j), int(n)) for (i, j), n in zip(cells.T, texts, strict=True)]
