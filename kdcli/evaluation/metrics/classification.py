"""Metrics of one label per text: scikit-learn's, in the form of the `evaluate` library."""

from collections.abc import Sequence
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


class ClassificationMetrics(evaluate.Metric):
    """Accuracy, balanced accuracy and three averages of F1 of class ids.

    Balanced accuracy and macro F1 give every class the same weight. Weighted F1 weighs a class by
    its number of texts. Micro F1 equals accuracy, as each text has one label.
    """

    def _info(self) -> evaluate.MetricInfo:
        ids = {name: datasets.Value("int64") for name in ("predictions", "references")}
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions and references: class ids, one for each text.",
            features=datasets.Features(ids),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        recall = recall_score(
            references, predictions, labels=np.unique(references), average="macro", zero_division=0
        )
        f1 = {
            f"{average}_f1": f1_score(references, predictions, average=average, zero_division=0)
            for average in ("macro", "micro", "weighted")
        }
        accuracy = accuracy_score(references, predictions)
        return _as_floats({"accuracy": accuracy, "balanced_accuracy": recall, **f1})


def classification_metrics(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Compute `ClassificationMetrics` without network and files.

    Args:
        predictions: (texts,) class ids.
        references: (texts,) class ids.
    """
    metrics: dict[str, float] = ClassificationMetrics(keep_in_memory=True).compute(
        predictions=predictions, references=references
    )
    return metrics


def probability_metrics(probabilities: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Compute log loss (nats), Brier score (0 to 2) and top-k accuracy.

    Log loss and Brier score are proper scoring rules: the true probabilities minimise them.

    Args:
        probabilities: (texts, classes).
        references: (texts,) class ids.
    """
    labels = np.arange(probabilities.shape[1])
    top_k = {
        f"top_{k}_accuracy": top_k_accuracy_score(references, probabilities, k=k, labels=labels)
        for k in TOP_K_VALUES
        if k < len(labels)
    }
    brier = brier_score_loss(references, probabilities, labels=labels, scale_by_half=False)
    loss = log_loss(references, probabilities, labels=labels)
    return _as_floats({"log_loss": loss, "brier": brier, **top_k})


def refusal_metrics(
    predictions: np.ndarray, references: np.ndarray, out_of_scope_id: int
) -> dict[str, float]:
    """Compute how often in-scope texts are right or refused, and out-of-scope texts refused.

    They are reported apart because accuracy over both depends on how many texts of the split are
    out of scope: a model that refuses more texts gains on a split with many of them.

    Args:
        predictions: (texts,) class ids.
        references: (texts,) class ids.
        out_of_scope_id: The id of the out-of-scope label.

    Returns:
        `in_scope_accuracy` and `in_scope_refused` if the split has in-scope texts;
        `out_of_scope_recall` if it has out-of-scope texts.
    """
    in_scope, refused = references != out_of_scope_id, predictions == out_of_scope_id
    metrics = {}
    if in_scope.any():
        metrics["in_scope_accuracy"] = accuracy_score(references[in_scope], predictions[in_scope])
        metrics["in_scope_refused"] = refused[in_scope].mean()
    if not in_scope.all():
        metrics["out_of_scope_recall"] = recall_score(~in_scope, refused)
    return _as_floats(metrics)


def per_class_metrics(
    predictions: np.ndarray,
    references: np.ndarray,
    labels: Sequence[str],
    class_ids: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Compute precision, recall, F1 and support of each class.

    Args:
        predictions: (texts,) class ids, or bool, (texts, labels).
        references: Of the same form.
        labels: The classes' names, by id.
        class_ids: The classes to report. Default: those that occur or are predicted.
    """
    ids = np.union1d(references, predictions) if class_ids is None else class_ids
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
    correct = np.take_along_axis(probabilities, references[:, None], axis=1)
    later = np.arange(probabilities.shape[1]) > references[:, None]
    ranks: np.ndarray = ((probabilities > correct) | ((probabilities == correct) & later)).sum(-1)
    return ranks


def sparse_confusion_matrix(
    predictions: np.ndarray, references: np.ndarray
) -> list[tuple[int, int, int]]:
    """Return the non-zero cells of the confusion matrix: (reference id, predicted id, texts).

    With 151 classes only a few hundred of the 22,801 cells are non-zero.
    """
    cells, texts = np.unique(np.stack([references, predictions]), axis=1, return_counts=True)
    return [(int(i), int(j), int(n)) for (i, j), n in zip(cells.T, texts, strict=True)]


def _as_floats(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
