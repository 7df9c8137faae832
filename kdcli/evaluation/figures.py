"""What a model says of a split, what is known of it, and the figures that come of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from kdcli.evaluation.operating import OperatingPoint, Settings
from kdcli.evaluation.uncertainty import Rate, Resamples
from kdcli.tasks import SINGLE_LABEL, Task


@dataclass(frozen=True)
class Truth:
    """What is known of a split's texts, whatever a model says.

    Attributes:
        references: The data's labels, as `Task.decide` gives a model's.
        labels: The outputs' names, in order.
        outside: The out-of-scope label's id, where one is named.
        resamples: The draws that every model's figures are resampled by.
    """

    references: np.ndarray
    labels: tuple[str, ...]
    outside: int | None
    resamples: Resamples

    @cached_property
    def inside(self) -> np.ndarray:
        """(texts,) which texts are in scope; all, where no label is named out of scope."""
        if self.outside is None:
            return np.ones(len(self.references), dtype=bool)
        return self.references != self.outside


class Answers:
    """What a model says of a split.

    Args:
        logits: (texts, outputs).
        settings: Its temperature and thresholds, where it has them.
        scores: The out-of-scope scores that aren't of the logits, by name.
        task: What the outputs are.

    Attributes:
        predictions: What `Task.decide` makes of the logits.
    """

    def __init__(
        self,
        logits: np.ndarray,
        settings: Settings | None,
        scores: dict[str, np.ndarray] | None = None,
        task: Task = SINGLE_LABEL,
    ) -> None:
        self.logits, self.settings, self.scores, self.task = logits, settings, scores or {}, task
        self.predictions = task.decide(logits)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Those of the logits as they are, (texts, outputs)."""
        return self.at(1.0)

    def at(self, temperature: float) -> np.ndarray:
        """The probabilities of the logits divided by a temperature; a score has none."""
        assert self.task.probabilities is not None
        return self.task.probabilities(self.logits.astype(np.float64) / temperature)

    @property
    def point(self) -> OperatingPoint | None:
        """Its out-of-scope threshold, where it has one."""
        return self.settings.operating_point if self.settings else None


@dataclass(frozen=True)
class Chosen:
    """What validation texts have settled.

    Attributes:
        settings: What the model is to carry along.
        points: Its out-of-scope threshold at other budgets.
    """

    settings: Settings
    points: Sequence[OperatingPoint] = ()


@dataclass
class Figures:
    """What was found.

    Attributes:
        points: The figures, by name.
        draws: For most of them, what they are in each resample.
        details: What isn't a number.
    """

    points: dict[str, float] = field(default_factory=dict)
    draws: dict[str, np.ndarray] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def means(rates: Mapping[str, Rate]) -> dict[str, float]:
    """The rates' values on the texts as they are; a rate among no texts has none."""
    return {
        name: float(np.mean(value if among is None else value[among]))
        for name, (value, among) in rates.items()
        if among is None or among.any()
    }
