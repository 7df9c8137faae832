"""What a model says of a split, what is known of it, and the figures that come of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from kdcli.evaluation.calibration.inference_config import Calibration, OutOfScopeThreshold
from kdcli.evaluation.uncertainty.bootstrap import BootstrapResamples, MaskedValues
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


@dataclass(frozen=True)
class CalibrationResult:
    """What validation texts have settled.

    Attributes:
        calibration: What the model is to carry along.
        alternative_operating_points: Its out-of-scope threshold at other budgets.
    """

    calibration: Calibration
    alternative_operating_points: Sequence[OutOfScopeThreshold] = ()


@dataclass
class MetricResults:
    """What was found.

    Attributes:
        values: The figures, by name.
        resampled_values: For most of them, what they are in each resample.
        details: What isn't a number.
    """

    values: dict[str, float] = field(default_factory=dict)
    resampled_values: dict[str, np.ndarray] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def masked_means(masked_values: Mapping[str, MaskedValues]) -> dict[str, float]:
    """The rates' values on the texts as they are; a rate among no texts has none."""
    return {
        name: float(np.mean(value if among is None else value[among]))
        for name, (value, among) in masked_values.items()
        if among is None or among.any()
    }
