"""What measuring a classifier means, by its task."""

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
    """A module that measures one task; references and predictions are as `Task.decide` has them."""

    def calibrate_on_validation(
        self,
        logits: np.ndarray,
        references: np.ndarray,
        labels: Sequence[str],
        out_of_scope_id: int | None,
        config: EvaluateConfig,
    ) -> CalibrationResult:
        """What a model is to carry along, by its answers on validation texts.

        Args:
            logits: (texts, outputs).
            references: The data's labels.
            labels: The outputs' names.
            out_of_scope_id: The out-of-scope label's id, where one is named.
            config: What the recipe says of it.
        """

    def compute_metrics(
        self,
        truth: GroundTruth,
        predictions: Predictions,
        other_predictions: Predictions | None = None,
    ) -> MetricResults:
        """All figures of a model on a split, with those against another model."""

    def metrics_from_predictions(
        self, references: np.ndarray, predictions: np.ndarray, out_of_scope_id: int | None
    ) -> dict[str, float]:
        """The figures that predictions alone give, of some of the texts."""

    def compare_predictions(
        self, truth: GroundTruth, predictions: Predictions, other_predictions: Predictions
    ) -> dict[str, Any]:
        """Two models in pairs: their agreement, and a test of which is right more often."""

    def format_predictions(self, labels: Sequence[str], predictions: np.ndarray) -> list[str]:
        """What each of some predictions is, for people."""

    def prediction_confidence(self, predictions: Predictions) -> np.ndarray | None:
        """The probability of each prediction, (texts,)."""


_TASK_EVALUATORS: Mapping[str, TaskEvaluator] = {
    SINGLE_LABEL.name: single_label,
    MULTI_LABEL.name: multi_label,
    REGRESSION.name: regression,
}


def get_task_evaluator(task: Task) -> TaskEvaluator:
    """How a task is measured."""
    return _TASK_EVALUATORS[task.name]
