"""Metrics of regression: one score per text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from kdcli.evaluation.calibration.inference_config import Calibration, CalibrationResult
from kdcli.evaluation.metrics.metric_results import MetricResults
from kdcli.evaluation.predict.predictions import GroundTruth, Predictions
from kdcli.recipe.schema import EvaluateConfig
from kdcli.tasks import REGRESSION

_FIDELITY_PREFIX = "fidelity_"


def calibrate_on_validation(
    logits: np.ndarray,
    references: np.ndarray,
    labels: Sequence[str],
    out_of_scope_id: int | None,
    config: EvaluateConfig,
) -> CalibrationResult:
    """Return an empty calibration; see `TaskEvaluator`."""
    return CalibrationResult(Calibration(1.0))


def compute_metrics(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions | None = None
) -> MetricResults:
    """Compute all metrics of a model on a split.

    Args:
        truth: Reference labels and resamples of the split.
        predictions: The predictions of the model.
        other_predictions: The predictions of the model that it is compared with.
    """
    results = MetricResults(metrics_from_predictions(truth.references, predictions.predicted))
    results.resampled_values |= truth.resamples.regression_metrics(
        predictions.predicted, truth.references
    )
    if other_predictions is not None:
        values = metrics_from_predictions(other_predictions.predicted, predictions.predicted)
        resampled_values = truth.resamples.regression_metrics(
            predictions.predicted, other_predictions.predicted
        )
        for name in ("pearson", "rmse"):
            results.values[_FIDELITY_PREFIX + name] = values[name]
            results.resampled_values[_FIDELITY_PREFIX + name] = resampled_values[name]
    return results


def metrics_from_predictions(
    references: np.ndarray, predictions: np.ndarray, out_of_scope_id: int | None = None
) -> dict[str, float]:
    """Compute correlations and errors of scores.

    The correlation with a constant is undefined and set to 0.

    Args:
        references: (texts,), scores of the data.
        predictions: (texts,), scores of the model.
        out_of_scope_id: Unused.
    """
    is_defined = len(references) > 1 and np.ptp(references) > 0 and np.ptp(predictions) > 0
    return {
        "spearman": REGRESSION.score(predictions, references),
        "pearson": float(pearsonr(predictions, references).statistic) if is_defined else 0.0,
        "mae": float(mean_absolute_error(references, predictions)),
        "rmse": float(root_mean_squared_error(references, predictions)),
    }


def compare_correctness(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions
) -> dict[str, Any]:
    """Return an empty comparison: a score is neither correct nor wrong."""
    return {}


def format_predictions(labels: Sequence[str], predictions: np.ndarray) -> list[str]:
    """Format scores, (texts,), with three decimals."""
    return [f"{score:.3f}" for score in predictions]


def prediction_confidence(predictions: Predictions) -> None:
    """Return None: a score has no probability."""
