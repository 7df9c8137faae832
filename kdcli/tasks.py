"""Tasks: single-label classification, multi-label classification and regression.

This module holds the arithmetic in which they differ. Losses, label arrays (`data/labels`) and
metrics (`evaluation/metrics`) of each task are in those packages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # its submodules are loaded at first use

TaskName = Literal["single_label_classification", "multi_label_classification", "regression"]

_MIN_PROBABILITY = 1e-12  # a probability of 0 has no logit


@dataclass(frozen=True)
class Task:
    """A task: the shape of its labels and predictions, and its metrics.

    Logits have the shape (texts, outputs). The ground truth has the shape that `predict` returns.

    Attributes:
        name: transformers' `problem_type`.
        description: Short description for the user.
        primary_metric: Metric that selects the best model; higher is better.
        primary_metric_title: Title of the primary metric in a table.
        predict: Predictions from logits: class ids, (texts,); presence of each label, bool,
            (texts, labels); or scores, (texts,).
        score: Primary metric of predictions and ground truth.
        average_logits: Logits of the weighted mean prediction of several models, from logits
            (models, texts, outputs) and weights (models,).
        missing_label: Placeholder for the label of a text without one.
        probabilities: Probabilities from logits, float64, (texts, outputs); None for regression.
        log_loss: Mean over texts (and labels) in nats, from logits and ground truth; None for
            regression.
        prior_logits: Initial bias of a new head, (outputs,), from the ground truth: log-odds of the
            labels, or the mean score. None if the head starts from 0.
    """

    name: TaskName
    description: str
    primary_metric: str
    primary_metric_title: str
    predict: Callable[[np.ndarray], np.ndarray]
    score: Callable[[np.ndarray, np.ndarray], float]
    average_logits: Callable[[np.ndarray, np.ndarray], np.ndarray]
    missing_label: float = -100
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None
    log_loss: Callable[[np.ndarray, np.ndarray], float] | None = None
    prior_logits: Callable[[np.ndarray], np.ndarray] | None = None

    def __str__(self) -> str:
        return self.name


def _accuracy(predictions: np.ndarray, truth: np.ndarray) -> float:
    return float((predictions == truth).mean())


def _micro_f1(predictions: np.ndarray, truth: np.ndarray) -> float:
    predicted, present = predictions.astype(bool), truth.astype(bool)
    total = predicted.sum() + present.sum()
    return float(2 * (predicted & present).sum() / total) if total else 0.0


def _spearman(predictions: np.ndarray, truth: np.ndarray) -> float:
    if len(predictions) < 2 or np.ptp(predictions) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(predictions, truth).statistic)


def _softmax(logits: np.ndarray) -> np.ndarray:
    probabilities: np.ndarray = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    return probabilities


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    probabilities: np.ndarray = scipy.special.expit(logits.astype(np.float64))
    return probabilities


def _cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    true_logits = logits[np.arange(len(logits)), truth]
    return float(np.mean(scipy.special.logsumexp(logits, axis=-1) - true_logits))


def _binary_cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, logits) - np.where(truth, logits, 0)))


def _label_log_odds(truth: np.ndarray) -> np.ndarray:
    # Half a text is added with each label and half a text without, so the odds stay finite.
    log_odds: np.ndarray = scipy.special.logit((truth.sum(0) + 0.5) / (len(truth) + 1))
    return log_odds


def _mean_score(truth: np.ndarray) -> np.ndarray:
    return truth.mean(keepdims=True)


def _average_softmax_logits(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    log_mean: np.ndarray = scipy.special.logsumexp(
        scipy.special.log_softmax(logits, axis=-1), axis=0, b=weights[:, None, None]
    )
    return log_mean


def _average_sigmoid_logits(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean = np.tensordot(weights, scipy.special.expit(logits), axes=1)
    mean_logits: np.ndarray = scipy.special.logit(mean.clip(_MIN_PROBABILITY, 1 - _MIN_PROBABILITY))
    return mean_logits


def _average_scores(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.tensordot(weights, logits, axes=1)


SINGLE_LABEL = Task(
    "single_label_classification",
    "one label per text",
    "accuracy",
    "accuracy",
    lambda logits: logits.argmax(-1),
    _accuracy,
    _average_softmax_logits,
    probabilities=_softmax,
    log_loss=_cross_entropy,
)
MULTI_LABEL = Task(
    "multi_label_classification",
    "any number of labels per text",
    "micro_f1",
    "micro F1",
    lambda logits: logits > 0,
    _micro_f1,
    _average_sigmoid_logits,
    probabilities=_sigmoid,
    log_loss=_binary_cross_entropy,
    prior_logits=_label_log_odds,
)
REGRESSION = Task(
    "regression",
    "a score per text",
    "spearman",
    "Spearman",
    lambda logits: logits[:, 0],
    _spearman,
    _average_scores,
    missing_label=np.nan,
    prior_logits=_mean_score,
)
TASKS: Mapping[str, Task] = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL, REGRESSION)}
