"""Metrics of multi-label classification: any number of labels per text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, f1_score

from kdcli.evaluation.calibration import multilabel_thresholds
from kdcli.evaluation.calibration.inference_config import Calibration, CalibrationResult
from kdcli.evaluation.calibration.temperature import fit_temperature
from kdcli.evaluation.metrics.classification import per_class_metrics
from kdcli.evaluation.metrics.fidelity import multi_label_fidelity
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
    """Fit temperature and label thresholds on validation texts; see `TaskEvaluator`."""
    probabilities = Predictions(logits, None, task=MULTI_LABEL).probabilities
    thresholds = multilabel_thresholds.choose_multilabel_thresholds(
        probabilities, references, labels, per_label=config.thresholds == "per_label"
    )
    temperature = fit_temperature(logits, references, MULTI_LABEL)
    return CalibrationResult(Calibration(temperature, thresholds=thresholds))


def compute_metrics(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions | None = None
) -> MetricResults:
    """Compute all metrics of a model on a split, for thresholds of 0.5 and tuned thresholds.

    Args:
        truth: Reference labels and resamples of the split.
        predictions: The predictions of the model.
        other_predictions: The predictions of the model that it is compared with.
    """
    references, results = truth.references, MetricResults()
    masked_values: dict[str, MaskedValues] = {}
    _add_label_metrics(results, masked_values, truth, predictions.predicted)
    calibration = predictions.calibration
    if calibration is not None and calibration.thresholds is not None:
        tuned = multilabel_thresholds.apply_thresholds(
            predictions.probabilities, calibration.thresholds, truth.labels
        )
        _add_label_metrics(results, masked_values, truth, tuned, _AT_THRESHOLD_SUFFIX)
    masked_values["log_loss"] = _per_text_log_loss(predictions.logits, references), None
    if calibration is not None:
        scaled_logits = predictions.logits / calibration.temperature
        masked_values["log_loss_calibrated"] = _per_text_log_loss(scaled_logits, references), None
    if other_predictions is not None:
        masked_values |= multi_label_fidelity(
            predictions.probabilities,
            other_predictions.probabilities,
            predictions.predicted,
            other_predictions.predicted,
            references,
        )
    results.values |= masked_means(masked_values)
    results.resampled_values |= truth.resamples.masked_means(masked_values)
    occurring = references.any(0)
    for average, columns in (("micro", slice(None)), ("macro", occurring)):
        if occurring.any():
            results.values[f"{average}_average_precision"] = float(average_precision_score(
                references[:, columns], predictions.probabilities[:, columns], average=average
            ))  # fmt: skip
    results.details["classes"] = _per_label_metrics(predictions.predicted, truth)
    return results


def metrics_from_predictions(
    references: np.ndarray, predictions: np.ndarray, out_of_scope_id: int | None = None
) -> dict[str, float]:
    """Compute the metrics that need predictions only.

    F1 averages over the labels that occur or are predicted. A text without labels is correct if
    none is predicted.

    Args:
        references: bool, (texts, labels).
        predictions: bool, (texts, labels).
        out_of_scope_id: Unused: an out-of-scope text has no label.
    """
    known = np.flatnonzero(references.any(0) | predictions.any(0))
    f1 = {
        f"{average}_f1": f1_score(
            references, predictions, labels=known, average=average, zero_division=0
        )
        if len(known)
        else 0.0
        for average in ("macro", "micro", "weighted")
    }
    means = masked_means(_per_text_label_metrics(references, predictions))
    return {name: float(value) for name, value in f1.items()} | means


def compare_correctness(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions
) -> dict[str, Any]:
    """Compute the agreement on single labels, and McNemar's test on texts with all labels right."""
    correct = [(p.predicted == truth.references).all(-1) for p in (predictions, other_predictions)]
    agreement = float((predictions.predicted == other_predictions.predicted).mean())
    return {"agreement": agreement, **mcnemar_test(*correct)}


def format_predictions(labels: Sequence[str], predictions: np.ndarray) -> list[str]:
    """Join the names of the predicted labels, for each row of (texts, labels)."""
    return [
        _LABEL_SEPARATOR.join(labels[i] for i in np.flatnonzero(row).tolist())
        for row in predictions
    ]


def prediction_confidence(predictions: Predictions) -> np.ndarray:
    """Return the product of the probabilities of all decisions on labels, (texts,)."""
    return np.maximum(predictions.probabilities, 1 - predictions.probabilities).prod(-1)


def _add_label_metrics(
    results: MetricResults,
    masked_values: dict[str, MaskedValues],
    truth: GroundTruth,
    predicted: np.ndarray,
    suffix: str = "",
) -> None:
    values = metrics_from_predictions(truth.references, predicted)
    results.values |= {name + suffix: value for name, value in values.items()}
    masked_values |= {
        name + suffix: means
        for name, means in _per_text_label_metrics(truth.references, predicted).items()
    }
    resampled = truth.resamples.multilabel_f1(predicted, truth.references)
    results.resampled_values |= {name + suffix: draws for name, draws in resampled.items()}


def _per_text_label_metrics(
    references: np.ndarray, predicted: np.ndarray
) -> dict[str, MaskedValues]:
    true_positives = (references & predicted).sum(-1)
    total = references.sum(-1) + predicted.sum(-1)
    return {
        "samples_f1": (np.where(total > 0, 2 * true_positives / np.maximum(total, 1), 1.0), None),
        "subset_accuracy": ((references == predicted).all(-1), None),
        "hamming_loss": ((references != predicted).mean(-1), None),
    }


def _per_text_log_loss(logits: np.ndarray, references: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return (np.logaddexp(0, logits) - np.where(references, logits, 0)).mean(-1)


def _per_label_metrics(predicted: np.ndarray, truth: GroundTruth) -> list[dict[str, Any]]:
    """Compute precision, recall, F1 and support of each label that occurs or is predicted."""
    known = np.flatnonzero(truth.references.any(0) | predicted.any(0))
    if not len(known):
        return []
    return per_class_metrics(predicted, truth.references, truth.labels, known)
