"""Interface of the modules that evaluate one task each."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from kdcli.evaluation.calibration.inference_config import CalibrationResult
from kdcli.evaluation.metrics import multi_label, regression, single_label
from kdcli.evaluation.metrics.metric_results import MetricResults
from kdcli.evaluation.predict.predictions import GroundTruth, Predictions
from kdcli.recipe.schema import EvaluateConfig
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task


class TaskEvaluator(Protocol):
    """Interface of a module that evaluates one task.

    References and predictions are as `Task.predict` returns.
    """

    def calibrate_on_validation(
        self,
        logits: np.ndarray,
        references: np.ndarray,
        labels: Sequence[str],
        out_of_scope_id: int | None,
        config: EvaluateConfig,
    ) -> CalibrationResult:
        """Fit temperature and thresholds on validation texts.

        Args:
            logits: (texts, outputs).
            references: The labels of the data.
            labels: The names of the outputs.
            out_of_scope_id: The id of the out-of-scope label, or None.
            config: The recipe's `evaluate` section.
        """

    def compute_metrics(
        self,
        truth: GroundTruth,
        predictions: Predictions,
        other_predictions: Predictions | None = None,
    ) -> MetricResults:
        """Compute all metrics of a model on a split, including its fidelity to another model."""

    def metrics_from_predictions(
        self, references: np.ndarray, predictions: np.ndarray, out_of_scope_id: int | None
    ) -> dict[str, float]:
        """Compute the metrics that need predictions only, without probabilities."""

    def compare_correctness(
        self, truth: GroundTruth, predictions: Predictions, other_predictions: Predictions
    ) -> dict[str, Any]:
        """Compute the agreement of two models, and test whether one is correct more often."""

    def format_predictions(self, labels: Sequence[str], predictions: np.ndarray) -> list[str]:
        """Format each prediction as text."""

    def prediction_confidence(self, predictions: Predictions) -> np.ndarray | None:
        """Return the probability of each prediction, (texts,); None for regression."""


_TASK_EVALUATORS: Mapping[str, TaskEvaluator] = {
    SINGLE_LABEL.name: single_label,
    MULTI_LABEL.name: multi_label,
    REGRESSION.name: regression,
}


def get_task_evaluator(task: Task) -> TaskEvaluator:
    """Return the module that evaluates a task."""
    return _TASK_EVALUATORS[task.name]
