"""Metrics of one model on one split, and the per-text values that they are means of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# A value per text, and the texts that it is averaged over (None: all); both (texts,).
MaskedValues = tuple[np.ndarray, np.ndarray | None]


@dataclass
class MetricResults:
    """Metrics of one model on one split.

    Attributes:
        values: The metrics, by name.
        resampled_values: For metrics with an interval, their values in each resample.
        details: Tables, such as the confusion matrix.
    """

    values: dict[str, float] = field(default_factory=dict)
    resampled_values: dict[str, np.ndarray] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def masked_means(masked_values: Mapping[str, MaskedValues]) -> dict[str, float]:
    """Return the means, without those over no texts."""
    return {
        name: float(np.mean(value if among is None else value[among]))
        for name, (value, among) in masked_values.items()
        if among is None or among.any()
    }
