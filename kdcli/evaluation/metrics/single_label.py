"""Metrics of single-label classification: labels, probabilities and out-of-scope texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcli.evaluation.calibration.calibration_error import (
    expected_calibration_error,
    reliability_curve,
)
from kdcli.evaluation.calibration.inference_config import Calibration, CalibrationResult
from kdcli.evaluation.calibration.out_of_scope_threshold import (
    OutOfScopeThreshold,
    choose_out_of_scope_thresholds,
)
from kdcli.evaluation.calibration.temperature import fit_temperature
from kdcli.evaluation.metrics import classification, fidelity, out_of_scope
from kdcli.evaluation.metrics.metric_results import MaskedValues, MetricResults, masked_means
from kdcli.evaluation.predict.predictions import GroundTruth, Predictions
from kdcli.evaluation.uncertainty.mcnemar import mcnemar_test
from kdcli.recipe.schema import EvaluateConfig

_AT_THRESHOLD_SUFFIX = "_at_threshold"
_CALIBRATED_SUFFIX = "_calibrated"
_REFUSAL_BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1)


def calibrate_on_validation(
    logits: np.ndarray,
    references: np.ndarray,
    labels: Sequence[str],
    out_of_scope_id: int | None,
    config: EvaluateConfig,
) -> CalibrationResult:
    """Fit temperature and out-of-scope threshold on validation texts; see `TaskEvaluator`."""
    temperature = fit_temperature(logits, references)
    if out_of_scope_id is None:
        return CalibrationResult(Calibration(temperature))
    budgets = (config.max_false_rejection_rate, *_REFUSAL_BUDGETS)
    thresholds = choose_out_of_scope_thresholds(
        logits, references, out_of_scope_id, labels[out_of_scope_id], budgets
    )
    return CalibrationResult(
        Calibration(temperature, thresholds[0] if thresholds else None), thresholds[1:]
    )


def compute_metrics(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions | None = None
) -> MetricResults:
    """Compute all metrics of a model on a split.

    Args:
        truth: Reference labels and resamples of the split.
        predictions: The predictions of the model.
        other_predictions: The predictions of the model that it is compared with.
    """
    results = MetricResults(
        metrics_from_predictions(truth.references, predictions.predicted, truth.out_of_scope_id)
    )
    masked_values = _per_text_label_metrics(truth, predictions.predicted)
    _add_probability_metrics(results, masked_values, truth, predictions.probabilities)
    if predictions.calibration is not None:
        calibrated = predictions.probabilities_at(predictions.calibration.temperature)
        _add_probability_metrics(results, masked_values, truth, calibrated, _CALIBRATED_SUFFIX)
    if truth.out_of_scope_id is not None:
        _add_out_of_scope_metrics(results, masked_values, truth, predictions, truth.out_of_scope_id)
    if other_predictions is not None:
        fidelity_values = fidelity.single_label_fidelity(
            predictions.probabilities, other_predictions.probabilities, truth.references
        )
        results.values |= masked_means(fidelity_values)
        masked_values |= fidelity_values
    results.resampled_values |= truth.resamples.masked_means(masked_values)
    # With one label per text, micro F1 equals accuracy.
    results.resampled_values["micro_f1"] = results.resampled_values["accuracy"]
    results.resampled_values |= truth.resamples.single_label_metrics(
        predictions.predicted, truth.references, len(truth.labels)
    )
    results.details["classes"] = classification.per_class_metrics(
        predictions.predicted, truth.references, truth.labels
    )
    results.details["confusion"] = classification.sparse_confusion_matrix(
        predictions.predicted, truth.references
    )
    return results


def metrics_from_predictions(
    references: np.ndarray, predictions: np.ndarray, out_of_scope_id: int | None
) -> dict[str, float]:
    """Compute the metrics that need predictions only.

    Args:
        references: (texts,), class ids of the data.
        predictions: (texts,), class ids of the model.
        out_of_scope_id: The id of the out-of-scope label, or None.
    """
    metrics = classification.classification_metrics(predictions, references)
    if out_of_scope_id is not None:
        metrics |= classification.refusal_metrics(predictions, references, out_of_scope_id)
    return metrics


def compare_correctness(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions
) -> dict[str, Any]:
    """Compute the agreement of two models, and McNemar's test of their accuracy."""
    return {
        "agreement": float((predictions.predicted == other_predictions.predicted).mean()),
        **mcnemar_test(
            predictions.predicted == truth.references,
            other_predictions.predicted == truth.references,
        ),
    }


def format_predictions(labels: Sequence[str], predictions: np.ndarray) -> list[str]:
    """Return the label name of each class id."""
    return [labels[i] for i in predictions]


def prediction_confidence(predictions: Predictions) -> np.ndarray:
    """Return the probability of each predicted label, (texts,)."""
    return predictions.probabilities.max(-1)


def metrics_at_out_of_scope_thresholds(
    truth: GroundTruth, predictions: Predictions, operating_points: Sequence[OutOfScopeThreshold]
) -> list[dict[str, float]]:
    """Compute the metrics at several out-of-scope thresholds, to compare budgets.

    Args:
        truth: Reference labels of the split, with an out-of-scope label.
        predictions: The predictions of the model.
        operating_points: The thresholds.
    """
    assert truth.out_of_scope_id is not None
    return [
        {
            "refuse_at_most": point.refuse_at_most,
            "threshold": point.threshold,
            **masked_means(
                _per_text_label_metrics(
                    truth, point.predict_with_refusal(predictions.logits, truth.out_of_scope_id)
                )
            ),
        }
        for point in operating_points
    ]


def _add_probability_metrics(
    results: MetricResults,
    masked_values: dict[str, MaskedValues],
    truth: GroundTruth,
    probabilities: np.ndarray,
    suffix: str = "",
) -> None:
    references, predictions = truth.references, probabilities.argmax(-1)
    values = classification.probability_metrics(probabilities, references)
    if suffix:
        # A temperature keeps the order of the labels, and so top-k accuracy.
        values = {name: values[name] for name in ("log_loss", "brier")}
    results.values |= {name + suffix: value for name, value in values.items()}
    correct_probability = probabilities[np.arange(len(references)), references]
    per_text: dict[str, np.ndarray] = {
        "log_loss": -np.log(np.maximum(correct_probability, np.finfo(np.float64).eps)),
        "brier": (probabilities**2).sum(-1) - 2 * correct_probability + 1,
    }
    rank = classification.reference_label_ranks(probabilities, references)
    per_text |= {f"top_{k}_accuracy": rank < k for k in classification.TOP_K_VALUES}
    masked_values.update({name + suffix: (per_text[name], None) for name in values})
    confidence, correct = probabilities.max(-1), predictions == references
    curve = reliability_curve(confidence, correct)
    results.details["reliability" + suffix] = curve
    results.values["ece" + suffix] = expected_calibration_error(curve)
    results.resampled_values["ece" + suffix] = truth.resamples.calibration_error(
        confidence, correct, np.ones_like(correct)
    )
    in_scope = truth.in_scope
    if truth.out_of_scope_id is not None and in_scope.any():
        name = "in_scope_ece" + suffix
        results.values[name] = expected_calibration_error(
            reliability_curve(confidence[in_scope], correct[in_scope])
        )
        results.resampled_values[name] = truth.resamples.calibration_error(
            confidence, correct, in_scope
        )


def _add_out_of_scope_metrics(
    results: MetricResults,
    masked_values: dict[str, MaskedValues],
    truth: GroundTruth,
    predictions: Predictions,
    out_of_scope_id: int,
) -> None:
    threshold, in_scope = predictions.operating_point, truth.in_scope
    if threshold is not None:
        at_threshold = {
            name + _AT_THRESHOLD_SUFFIX: values
            for name, values in _per_text_label_metrics(
                truth, threshold.predict_with_refusal(predictions.logits, out_of_scope_id)
            ).items()
        }
        results.values |= masked_means(at_threshold)
        masked_values |= at_threshold
    if in_scope.all() or not in_scope.any():
        return
    scores = {
        name: out_of_scope.in_scope_score(name, predictions.logits, out_of_scope_id)
        for name in out_of_scope.SCORE_NAMES
    }
    scores |= predictions.out_of_scope_scores
    results.details["scores"] = {
        n: out_of_scope.out_of_scope_detection_metrics(s, ~in_scope) for n, s in scores.items()
    }
    if threshold is not None:
        results.values["out_of_scope_auroc"] = results.details["scores"][threshold.score]["auroc"]
        results.resampled_values["out_of_scope_auroc"] = truth.resamples.auroc(
            -scores[threshold.score], ~in_scope
        )


def _per_text_label_metrics(truth: GroundTruth, predictions: np.ndarray) -> dict[str, MaskedValues]:
    correct, in_scope = predictions == truth.references, truth.in_scope
    values: dict[str, MaskedValues] = {"accuracy": (correct, None)}
    if truth.out_of_scope_id is not None:
        refused = predictions == truth.out_of_scope_id
        if in_scope.any():
            values["in_scope_accuracy"] = (correct, in_scope)
            values["in_scope_refused"] = (refused, in_scope)
        if not in_scope.all():
            values["out_of_scope_recall"] = (refused, ~in_scope)
    return values
