"""The figures of one label a text: what of the labels and their probabilities is right."""

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
    """Temperature and threshold, on validation texts; see `kdcli.evaluation.kinds.Kind`."""
    temperature = fit_temperature(logits, references)
    if out_of_scope_id is None:
        return CalibrationResult(Calibration(temperature))
    budgets = (config.refuse_at_most, *_REFUSAL_BUDGETS)
    points = choose_out_of_scope_thresholds(
        logits, references, out_of_scope_id, labels[out_of_scope_id], budgets
    )
    return CalibrationResult(Calibration(temperature, points[0] if points else None), points[1:])


def compute_metrics(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions | None = None
) -> MetricResults:
    """All figures of a model on a split.

    Args:
        truth: The split.
        predictions: The model's answers.
        other_predictions: Those of the model that it is compared with.
    """
    found = MetricResults(
        metrics_from_predictions(truth.references, predictions.predicted, truth.out_of_scope_id)
    )
    rates = _per_text_label_metrics(truth, predictions.predicted)
    _add_probability_metrics(found, rates, truth, predictions.probabilities)
    if predictions.calibration is not None:
        calibrated = predictions.probabilities_at(predictions.calibration.temperature)
        _add_probability_metrics(found, rates, truth, calibrated, _CALIBRATED_SUFFIX)
    if truth.out_of_scope_id is not None:
        _add_out_of_scope_metrics(found, rates, truth, predictions, truth.out_of_scope_id)
    if other_predictions is not None:
        fidelity_rates = fidelity.per_text_fidelity(
            predictions.probabilities, other_predictions.probabilities, truth.references
        )
        found.values |= masked_means(fidelity_rates)
        rates |= fidelity_rates
    found.resampled_values |= truth.resamples.masked_means(rates)
    found.resampled_values["micro_f1"] = found.resampled_values[
        "accuracy"
    ]  # the same, where a text has one label
    found.resampled_values |= truth.resamples.single_label_metrics(
        predictions.predicted, truth.references, len(truth.labels)
    )
    found.details["classes"] = classification.per_class_metrics(
        predictions.predicted, truth.references, truth.labels
    )
    found.details["confusion"] = classification.sparse_confusion_matrix(
        predictions.predicted, truth.references
    )
    return found


def metrics_from_predictions(
    references: np.ndarray, predictions: np.ndarray, out_of_scope_id: int | None
) -> dict[str, float]:
    """The figures that predicted labels alone give.

    Args:
        references: (texts,) the data's class ids.
        predictions: (texts,) the model's.
        out_of_scope_id: The out-of-scope label's id, where one is named.
    """
    metrics = classification.label_metrics(predictions, references)
    if out_of_scope_id is not None:
        metrics |= classification.out_of_scope_metrics(predictions, references, out_of_scope_id)
    return metrics


def compare_predictions(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions
) -> dict[str, Any]:
    """How often two models agree, and McNemar's test of which is right more often."""
    return {
        "agreement": float((predictions.predicted == other_predictions.predicted).mean()),
        **mcnemar_test(
            predictions.predicted == truth.references,
            other_predictions.predicted == truth.references,
        ),
    }


def format_predictions(labels: Sequence[str], predictions: np.ndarray) -> list[str]:
    """The labels' names, for each of some class ids."""
    return [labels[i] for i in predictions]


def prediction_confidence(predictions: Predictions) -> np.ndarray:
    """The probability of the label given, (texts,)."""
    return predictions.probabilities.max(-1)


def metrics_at_operating_points(
    truth: GroundTruth, predictions: Predictions, operating_points: Sequence[OutOfScopeThreshold]
) -> list[dict[str, float]]:
    """What several thresholds do: for whoever wants to choose another budget.

    Args:
        truth: The split; a label is named out of scope.
        predictions: The model's answers.
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
    points = classification.probability_metrics(probabilities, references)
    if suffix:
        # A temperature changes no order: top-k is as it was.
        points = {name: points[name] for name in ("log_loss", "brier")}
    results.values |= {name + suffix: value for name, value in points.items()}
    right = probabilities[np.arange(len(references)), references]
    each: dict[str, np.ndarray] = {
        "log_loss": -np.log(np.maximum(right, np.finfo(np.float64).eps)),
        "brier": (probabilities**2).sum(-1) - 2 * right + 1,
    }
    rank = classification.reference_label_ranks(probabilities, references)
    each |= {f"top_{k}_accuracy": rank < k for k in classification.TOP_K_VALUES}
    masked_values.update({name + suffix: (each[name], None) for name in points})
    confidence, correct = probabilities.max(-1), predictions == references
    curve = reliability_curve(confidence, correct)
    results.details["reliability" + suffix] = curve
    results.values["ece" + suffix] = expected_calibration_error(curve)
    results.resampled_values["ece" + suffix] = truth.resamples.calibration_error(
        confidence, correct, np.ones_like(correct)
    )
    inside = truth.in_scope
    if truth.out_of_scope_id is not None and inside.any():
        name = "in_scope_ece" + suffix
        results.values[name] = expected_calibration_error(
            reliability_curve(confidence[inside], correct[inside])
        )
        results.resampled_values[name] = truth.resamples.calibration_error(
            confidence, correct, inside
        )


def _add_out_of_scope_metrics(
    results: MetricResults,
    masked_values: dict[str, MaskedValues],
    truth: GroundTruth,
    predictions: Predictions,
    out_of_scope_id: int,
) -> None:
    point, inside = predictions.operating_point, truth.in_scope
    if point is not None:
        refusing = {
            name + _AT_THRESHOLD_SUFFIX: rate
            for name, rate in _per_text_label_metrics(
                truth, point.predict_with_refusal(predictions.logits, out_of_scope_id)
            ).items()
        }
        results.values |= masked_means(refusing)
        masked_values |= refusing
    if inside.all() or not inside.any():
        return
    scores = {
        name: out_of_scope.in_scope_score(name, predictions.logits, out_of_scope_id)
        for name in out_of_scope.SCORE_NAMES
    }
    scores |= predictions.out_of_scope_scores
    results.details["scores"] = {
        n: out_of_scope.out_of_scope_detection_metrics(s, ~inside) for n, s in scores.items()
    }
    if point is not None:
        results.values["out_of_scope_auroc"] = results.details["scores"][point.score]["auroc"]
        results.resampled_values["out_of_scope_auroc"] = truth.resamples.auroc(
            -scores[point.score], ~inside
        )


def _per_text_label_metrics(truth: GroundTruth, predictions: np.ndarray) -> dict[str, MaskedValues]:
    correct, inside = predictions == truth.references, truth.in_scope
    found: dict[str, MaskedValues] = {"accuracy": (correct, None)}
    if truth.out_of_scope_id is not None:
        refused = predictions == truth.out_of_scope_id
        if inside.any():
            found["in_scope_accuracy"] = (correct, inside)
            found["in_scope_refused"] = (refused, inside)
        if not inside.all():
            found["out_of_scope_recall"] = (refused, ~inside)
    return found
