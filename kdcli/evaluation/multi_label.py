"""The figures where a text has any number of labels, none included."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import rel_entr
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_fscore_support,
)

from kdcli.evaluation import thresholds
from kdcli.evaluation.calibration import fit_temperature
from kdcli.evaluation.figures import Answers, Chosen, Figures, Truth, means
from kdcli.evaluation.operating import Settings
from kdcli.evaluation.uncertainty import Rate, mcnemar
from kdcli.recipe.schema import EvaluateSpec
from kdcli.tasks import MULTI_LABEL

_THRESHOLD = "_at_threshold"
_BETWEEN = "; "


def choose(
    logits: np.ndarray,
    references: np.ndarray,
    labels: Sequence[str],
    outside: int | None,
    spec: EvaluateSpec,
) -> Chosen:
    """Temperature and thresholds, on validation texts; see `kdcli.evaluation.kinds.Kind`."""
    probabilities = Answers(logits, None, task=MULTI_LABEL).probabilities
    each = spec.thresholds == "each"
    chosen = thresholds.choose(probabilities, references, labels, each=each)
    temperature = fit_temperature(logits, references, MULTI_LABEL)
    return Chosen(Settings(temperature, thresholds=chosen))


def figures(truth: Truth, said: Answers, other: Answers | None = None) -> Figures:
    """All figures of a model on a split; labels are given from a probability of a half on.

    Args:
        truth: The split.
        said: The model's answers.
        other: Those of the model that it is compared with.
    """
    there, found, rates = truth.references, Figures(), dict[str, Rate]()
    _add_labels(found, rates, truth, said.predictions)
    settings = said.settings
    if settings is not None and settings.thresholds is not None:
        given = thresholds.given(said.probabilities, settings.thresholds, truth.labels)
        _add_labels(found, rates, truth, given, _THRESHOLD)
    rates["log_loss"] = _log_loss(said.logits, there), None
    if settings is not None:
        rates["log_loss_calibrated"] = _log_loss(said.logits / settings.temperature, there), None
    if other is not None:
        rates |= _fidelity(truth, said, other)
    found.points |= means(rates)
    found.draws |= truth.resamples.rates(rates)
    occurring = there.any(0)
    for average, columns in (("micro", slice(None)), ("macro", occurring)):
        if occurring.any():
            found.points[f"{average}_average_precision"] = float(average_precision_score(
                there[:, columns], said.probabilities[:, columns], average=average
            ))  # fmt: skip
    found.details["classes"] = _of_labels(said.predictions, truth)
    return found


def labelled(
    references: np.ndarray, predictions: np.ndarray, outside: int | None = None
) -> dict[str, float]:
    """The figures that predicted labels alone give.

    F1 over labels counts those that occur or are given; a text without labels that is given none
    is right.

    Args:
        references: (texts, labels) whether each label is there.
        predictions: (texts, labels) whether it is given.
        outside: Unused: nothing is out of scope, where a text may have no label.
    """
    known = np.flatnonzero(references.any(0) | predictions.any(0))
    found = {
        f"{average}_f1": f1_score(
            references, predictions, labels=known, average=average, zero_division=0
        )
        if len(known)
        else 0.0
        for average in ("macro", "micro", "weighted")
    }
    rates = means(_label_rates(references, predictions))
    return {name: float(value) for name, value in found.items()} | rates


def against(truth: Truth, said: Answers, others: Answers) -> dict[str, Any]:
    """How often two models' decisions agree; McNemar's test of which has more texts all right."""
    right = [(one.predictions == truth.references).all(-1) for one in (said, others)]
    agreement = float((said.predictions == others.predictions).mean())
    return {"agreement": agreement, **mcnemar(*right)}


def in_words(labels: Sequence[str], predictions: np.ndarray) -> list[str]:
    """The names of the labels that are there, for each row of (texts, labels)."""
    there = [np.flatnonzero(row).tolist() for row in predictions]
    return [_BETWEEN.join(labels[i] for i in row) for row in there]


def confidence(said: Answers) -> np.ndarray:
    """The probability that all labels are as they are given, each by itself, (texts,)."""
    return np.maximum(said.probabilities, 1 - said.probabilities).prod(-1)


def _add_labels(
    found: Figures, rates: dict[str, Rate], truth: Truth, given: np.ndarray, suffix: str = ""
) -> None:
    points = labelled(truth.references, given)
    found.points |= {name + suffix: value for name, value in points.items()}
    rates |= {n + suffix: rate for n, rate in _label_rates(truth.references, given).items()}
    draws = truth.resamples.of_labels(given, truth.references)
    found.draws |= {name + suffix: values for name, values in draws.items()}


def _label_rates(there: np.ndarray, given: np.ndarray) -> dict[str, Rate]:
    both, either = (there & given).sum(-1), there.sum(-1) + given.sum(-1)
    return {
        "samples_f1": (np.where(either > 0, 2 * both / np.maximum(either, 1), 1.0), None),
        "subset_accuracy": ((there == given).all(-1), None),
        "hamming_loss": ((there != given).mean(-1), None),
    }


def _log_loss(logits: np.ndarray, there: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return (np.logaddexp(0, logits) - np.where(there, logits, 0)).mean(-1)


def _fidelity(truth: Truth, said: Answers, other: Answers) -> dict[str, Rate]:
    """The figures of `kdcli.evaluation.fidelity`, of decisions on a label in place of texts."""
    tiny = np.finfo(np.float64).tiny
    mine, its = said.probabilities, other.probabilities
    divergence = sum(
        rel_entr(p, np.maximum(q, tiny)) for p, q in ((its, mine), (1 - its, 1 - mine))
    )
    correct, right = (one.predictions == truth.references for one in (said, other))
    return {
        "agreement": ((said.predictions == other.predictions).mean(-1), None),
        "kl": (divergence.mean(-1), None),
        "negative_flip_rate": ((right & ~correct).mean(-1), None),
        "positive_flip_rate": ((correct & ~right).mean(-1), None),
    }


def _of_labels(given: np.ndarray, truth: Truth) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each label that occurs or is given."""
    there = truth.references
    known = np.flatnonzero(there.any(0) | given.any(0))
    if not len(known):
        return []
    columns = precision_recall_fscore_support(there, given, labels=known, zero_division=0)
    return [
        {
            "label": truth.labels[i],
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
        }
        for i, precision, recall, f1, support in zip(known, *columns, strict=True)
    ]
