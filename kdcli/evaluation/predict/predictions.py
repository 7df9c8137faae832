"""Predictions of a model on a split, and the reference labels."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdcli.evaluation.calibration.inference_config import Calibration
from kdcli.evaluation.calibration.out_of_scope_threshold import OutOfScopeThreshold
from kdcli.evaluation.uncertainty.bootstrap import BootstrapResamples
from kdcli.tasks import SINGLE_LABEL, Task


@dataclass(frozen=True)
class GroundTruth:
    """True labels of a split, and bootstrap resamples of its rows.

    Attributes:
        references: The labels of the data, in the form of `Task.predict`.
        labels: The names of the outputs.
        out_of_scope_id: The id of the out-of-scope label, or None.
        resamples: The bootstrap resamples, the same for all models.
    """

    references: np.ndarray
    labels: tuple[str, ...]
    out_of_scope_id: int | None
    resamples: BootstrapResamples

    @cached_property
    def in_scope(self) -> np.ndarray:
        """bool, (texts,): True for in-scope texts; for all texts without an out-of-scope label."""
        if self.out_of_scope_id is None:
            return np.ones(len(self.references), dtype=bool)
        return self.references != self.out_of_scope_id


class Predictions:
    """Predictions of a model on a split.

    Args:
        logits: (texts, outputs).
        calibration: The temperature and thresholds of the model, if it has them.
        out_of_scope_scores: In-scope scores that are not computed from the logits, by name.
        task: The task of the model.

    Attributes:
        predicted: The result of `Task.predict` for the logits.
    """

    def __init__(
        self,
        logits: np.ndarray,
        calibration: Calibration | None,
        out_of_scope_scores: dict[str, np.ndarray] | None = None,
        task: Task = SINGLE_LABEL,
    ) -> None:
        self.logits, self.calibration, self.task = logits, calibration, task
        self.out_of_scope_scores = out_of_scope_scores or {}
        self.predicted = task.predict(logits)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Probabilities without temperature scaling, (texts, outputs)."""
        return self.probabilities_at(1.0)

    def probabilities_at(self, temperature: float) -> np.ndarray:
        """Return the probabilities of the logits divided by a temperature; not for regression."""
        assert self.task.probabilities is not None
        return self.task.probabilities(self.logits.astype(np.float64) / temperature)

    @property
    def operating_point(self) -> OutOfScopeThreshold | None:
        """The out-of-scope threshold, or None."""
        return self.calibration.operating_point if self.calibration else None
