"""What a model is for: one label of a text, several, or a score.

The arithmetic in which the tasks differ stands here. Besides, each has its losses
(`training/terms.py`), its way to be read (`data/targets.py`) and its figures
(`evaluation/kinds.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, log_softmax, logit, logsumexp, softmax

TaskName = Literal["single_label_classification", "multi_label_classification", "regression"]

_MIN_PROBABILITY = 1e-12  # a probability of 0 has no logit


@dataclass(frozen=True)
class Task:
    """A task. Logits are (texts, outputs); truths are what `predict` gives, of the data.

    Attributes:
        name: transformers' `problem_type`.
        description: What a person calls it.
        primary_metric: The figure that decides; the higher, the better.
        primary_metric_title: The headline's, in a table.
        predict: What logits say: class ids, (texts,); whether each label is there, (texts, labels);
            scores, (texts,).
        score: The headline of decisions and truths.
        probabilities: Of logits, float64, (texts, outputs); of a score there are none.
        log_loss: Of logits and truths, in nats, the mean over texts (and labels).
        missing_label: What stands for the label of a text that has none.
        average_logits: Several models' logits, (models, texts, outputs), and their shares, (models,): the
            logits of the mean of what they say.
        prior_logits: Of truths, the logits that say of each text what is so of all of them, (outputs,).
            None where logits of 0 are near enough.
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
    given, there = predictions.astype(bool), truth.astype(bool)
    either = given.sum() + there.sum()
    return float(2 * (given & there).sum() / either) if either else 0.0


def _spearman(predictions: np.ndarray, truth: np.ndarray) -> float:
    if len(predictions) < 2 or np.ptp(predictions) == 0 or np.ptp(truth) == 0:
        return 0.0
    # Every command reads a recipe, and few need what takes half a second to import.
    from scipy.stats import spearmanr

    return float(spearmanr(predictions, truth).statistic)


def _softmax(logits: np.ndarray) -> np.ndarray:
    found: np.ndarray = softmax(logits.astype(np.float64), axis=-1)
    return found


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    found: np.ndarray = expit(logits.astype(np.float64))
    return found


def _cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    right = logits[np.arange(len(logits)), truth]
    return float(np.mean(logsumexp(logits, axis=-1) - right))


def _binary_cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, logits) - np.where(truth, logits, 0)))


def _label_log_odds(truth: np.ndarray) -> np.ndarray:
    # Half a text more with each label and half a one without: no odds are endless.
    found: np.ndarray = logit((truth.sum(0) + 0.5) / (len(truth) + 1))
    return found


def _mean_score(truth: np.ndarray) -> np.ndarray:
    return truth.mean(keepdims=True)


def _average_softmax_logits(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    found: np.ndarray = logsumexp(log_softmax(logits, axis=-1), axis=0, b=weights[:, None, None])
    return found


def _average_sigmoid_logits(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean = np.tensordot(weights, expit(logits), axes=1)
    found: np.ndarray = logit(mean.clip(_MIN_PROBABILITY, 1 - _MIN_PROBABILITY))
    return found


def _average_scores(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.tensordot(weights, logits, axes=1)


SINGLE_LABEL = Task(
    "single_label_classification",
    "one label a text",
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
    "any number of labels a text",
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
    "a score a text",
    "spearman",
    "Spearman",
    lambda logits: logits[:, 0],
    _spearman,
    _average_scores,
    missing_label=np.nan,
    prior_logits=_mean_score,
)
TASKS: Mapping[str, Task] = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL, REGRESSION)}
