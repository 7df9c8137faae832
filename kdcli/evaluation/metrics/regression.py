"""The figures of a score a text."""

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
    """Nothing is to be chosen: a score is what it is; see `kdcli.evaluation.kinds.Kind`."""
    return CalibrationResult(Calibration(1.0))


def compute_metrics(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions | None = None
) -> MetricResults:
    """All figures of a model on a split.

    Args:
        truth: The split.
        predictions: The model's answers.
        other_predictions: Those of the model that it is compared with.
    """
    found = MetricResults(metrics_from_predictions(truth.references, predictions.predicted))
    found.resampled_values |= truth.resamples.regression_metrics(
        predictions.predicted, truth.references
    )
    if other_predictions is not None:
        points = metrics_from_predictions(other_predictions.predicted, predictions.predicted)
        draws = truth.resamples.regression_metrics(
            predictions.predicted, other_predictions.predicted
        )
        for name in ("pearson", "rmse"):
            found.values[_FIDELITY_PREFIX + name] = points[name]
            found.resampled_values[_FIDELITY_PREFIX + name] = draws[name]
    return found


def metrics_from_predictions(
    references: np.ndarray, predictions: np.ndarray, out_of_scope_id: int | None = None
) -> dict[str, float]:
    """How near scores are, and how much they rise and fall alike.

    A correlation with what is the same for all texts has no value, and stands as 0.

    Args:
        references: (texts,) the data's scores.
        predictions: (texts,) the model's.
        out_of_scope_id: Unused: a score is never out of scope.
    """
    vary = len(references) > 1 and np.ptp(references) > 0 and np.ptp(predictions) > 0
    return {
        "spearman": REGRESSION.score(predictions, references),
        "pearson": float(pearsonr(predictions, references).statistic) if vary else 0.0,
        "mae": float(mean_absolute_error(references, predictions)),
        "rmse": float(root_mean_squared_error(references, predictions)),
    }


def compare_predictions(
    truth: GroundTruth, predictions: Predictions, other_predictions: Predictions
) -> dict[str, Any]:
    """No score is right or wrong: what tells two models apart is in their figures' differences."""
    return {}


def format_predictions(labels: Sequence[str], predictions: np.ndarray) -> list[str]:
    """Scores, (texts,), to three places."""
    return [f"{score:.3f}" for score in predictions]


def prediction_confidence(predictions: Predictions) -> None:
    """A score has no probability."""
