"""The figures where a text has any number of labels, none included."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, f1_score

from kdcli.evaluation.calibration import multilabel_thresholds
from kdcli.evaluation.calibration.inference_config import Calibration, CalibrationResult
from kdcli.evaluation.calibration.temperature import fit_temperature
from kdcli.evaluation.metrics.classification import per_class_metrics
from kdcli.evaluation.metrics.fidelity import per_label_fidelity
from kdcli.evaluation.metrics.metric_results import MaskedValues, MetricResults, masked_means
from kdcli.evaluation.predict.predictions import GroundTruth, Predictions
from kdcli.evaluation.uncertainty.mcnemar import mcnemar_test
from kdcli.recipe.schema import EvaluateConfig
from kdcli.tasks import MULTI_LABEL

_AT_THRESHOLD_SUFFIX = "_at_threshold"
_LABEL_SEPARATOR = "; "


def calibrate_on_validation(
    logits: np.ndarray,
    references: np.ndarray,
    labels: Sequence[str],
    out_of_scope_id: int | None,
    config: EvaluateConfig,
) -> CalibrationResult:
    """Temperature and thresholds, on validation texts; see `kdcli.evaluation.kinds.Kind`."""
    probabilities = Predictions(logits, None, task=MULTI_LABEL).probabilities
    each = config.thresholds == "each"
    chosen = multilabel_thresholds.choose_multilabel_thresholds(
        probabilities, references, labels, per_label=each
    )
    temperature = fit_temperature(logits, references, MULTI_LABEL)
    return CalibrationResult(Calibration(temperature, thresholds=chosen))


def compute_metrics(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions | None = None
) -> MetricResults:
    """All figures of a model on a split; labels are given from a probability of a half on.

    Args:
        truth: The split.
        predictions: The model's answers.
        other_predictions: Those of the model that it is compared with.
    """
    there, found, rates = truth.references, MetricResults(), dict[str, MaskedValues]()
    _add_label_metrics(found, rates, truth, predictions.predicted)
    settings = predictions.calibration
    if settings is not None and settings.thresholds is not None:
        given = multilabel_thresholds.apply_thresholds(
            predictions.probabilities, settings.thresholds, truth.labels
        )
        _add_label_metrics(found, rates, truth, given, _AT_THRESHOLD_SUFFIX)
    rates["log_loss"] = _per_text_log_loss(predictions.logits, there), None
    if settings is not None:
        rates["log_loss_calibrated"] = (
            _per_text_log_loss(predictions.logits / settings.temperature, there),
            None,
        )
    if other_predictions is not None:
        rates |= per_label_fidelity(
            predictions.probabilities,
            other_predictions.probabilities,
            predictions.predicted,
            other_predictions.predicted,
            there,
        )
    found.values |= masked_means(rates)
    found.resampled_values |= truth.resamples.masked_means(rates)
    occurring = there.any(0)
    for average, columns in (("micro", slice(None)), ("macro", occurring)):
        if occurring.any():
            found.values[f"{average}_average_precision"] = float(average_precision_score(
                there[:, columns], predictions.probabilities[:, columns], average=average
            ))  # fmt: skip
    found.details["classes"] = _per_label_metrics(predictions.predicted, truth)
    return found


def metrics_from_predictions(
    references: np.ndarray, predictions: np.ndarray, out_of_scope_id: int | None = None
) -> dict[str, float]:
    """The figures that predicted labels alone give.

    F1 over labels counts those that occur or are given; a text without labels that is given none
    is right.

    Args:
        references: (texts, labels) whether each label is there.
        predictions: (texts, labels) whether it is given.
        out_of_scope_id: Unused: nothing is out of scope, where a text may have no label.
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
    rates = masked_means(_per_text_label_metrics(references, predictions))
    return {name: float(value) for name, value in found.items()} | rates


def compare_predictions(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions
) -> dict[str, Any]:
    """How often two models' decisions agree; McNemar's test of which has more texts all right."""
    right = [
        (one.predicted == truth.references).all(-1) for one in (predictions, other_predictions)
    ]
    agreement = float((predictions.predicted == other_predictions.predicted).mean())
    return {"agreement": agreement, **mcnemar_test(*right)}


def format_predictions(labels: Sequence[str], predictions: np.ndarray) -> list[str]:
    """The names of the labels that are there, for each row of (texts, labels)."""
    there = [np.flatnonzero(row).tolist() for row in predictions]
    return [_LABEL_SEPARATOR.join(labels[i] for i in row) for row in there]


def prediction_confidence(predictions: Predictions) -> np.ndarray:
    """The probability that all labels are as they are given, each by itself, (texts,)."""
    return np.maximum(predictions.probabilities, 1 - predictions.probabilities).prod(-1)


def _add_label_metrics(
    results: MetricResults,
    masked_values: dict[str, MaskedValues],
    truth: GroundTruth,
    predicted: np.ndarray,
    suffix: str = "",
) -> None:
    points = metrics_from_predictions(truth.references, predicted)
    results.values |= {name + suffix: value for name, value in points.items()}
    masked_values |= {
        n + suffix: rate for n, rate in _per_text_label_metrics(truth.references, predicted).items()
    }
    draws = truth.resamples.multilabel_f1(predicted, truth.references)
    results.resampled_values |= {name + suffix: values for name, values in draws.items()}


def _per_text_label_metrics(
    references: np.ndarray, predicted: np.ndarray
) -> dict[str, MaskedValues]:
    both, either = (references & predicted).sum(-1), references.sum(-1) + predicted.sum(-1)
    return {
        "samples_f1": (np.where(either > 0, 2 * both / np.maximum(either, 1), 1.0), None),
        "subset_accuracy": ((references == predicted).all(-1), None),
        "hamming_loss": ((references != predicted).mean(-1), None),
    }


def _per_text_log_loss(logits: np.ndarray, references: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return (np.logaddexp(0, logits) - np.where(references, logits, 0)).mean(-1)


def _per_label_metrics(predicted: np.ndarray, truth: GroundTruth) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each label that occurs or is given."""
    there = truth.references
    known = np.flatnonzero(there.any(0) | predicted.any(0))
    if not len(known):
        return []
    return per_class_metrics(predicted, there, truth.labels, known)
