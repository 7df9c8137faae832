"""What a model says of a split, what is known of it, and the figures that come of both."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdcli.evaluation.calibration.inference_config import Calibration
from kdcli.evaluation.calibration.out_of_scope_threshold import OutOfScopeThreshold
from kdcli.evaluation.uncertainty.bootstrap import BootstrapResamples
from kdcli.tasks import SINGLE_LABEL, Task


@dataclass(frozen=True)
class GroundTruth:
    """What is known of a split's texts, whatever a model says.

    Attributes:
        references: The data's labels, as `Task.decide` gives a model's.
        labels: The outputs' names, in order.
        out_of_scope_id: The out-of-scope label's id, where one is named.
        resamples: The draws that every model's figures are resampled by.
    """

    references: np.ndarray
    labels: tuple[str, ...]
    out_of_scope_id: int | None
    resamples: BootstrapResamples

    @cached_property
    def in_scope(self) -> np.ndarray:
        """(texts,) which texts are in scope; all, where no label is named out of scope."""
        if self.out_of_scope_id is None:
            return np.ones(len(self.references), dtype=bool)
        return self.references != self.out_of_scope_id


class Predictions:
    """What a model says of a split.

    Args:
        logits: (texts, outputs).
        calibration: Its temperature and thresholds, where it has them.
        out_of_scope_scores: The out-of-scope scores that aren't of the logits, by name.
        task: What the outputs are.

    Attributes:
        predicted: What `Task.decide` makes of the logits.
    """

    def __init__(
        self,
        logits: np.ndarray,
        calibration: Calibration | None,
        out_of_scope_scores: dict[str, np.ndarray] | None = None,
        task: Task = SINGLE_LABEL,
    ) -> None:
        self.logits, self.calibration, self.out_of_scope_scores, self.task = (
            logits,
            calibration,
            out_of_scope_scores or {},
            task,
        )
        self.predicted = task.predict(logits)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Those of the logits as they are, (texts, outputs)."""
        return self.probabilities_at(1.0)

    def probabilities_at(self, temperature: float) -> np.ndarray:
        """The probabilities of the logits divided by a temperature; a score has none."""
        assert self.task.probabilities is not None
        return self.task.probabilities(self.logits.astype(np.float64) / temperature)

    @property
    def operating_point(self) -> OutOfScopeThreshold | None:
        """Its out-of-scope threshold, where it has one."""
        return self.calibration.operating_point if self.calibration else None
