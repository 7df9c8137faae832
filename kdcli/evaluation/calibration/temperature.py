"""Temperature scaling: one number that calibrates a model's probabilities."""

import numpy as np
from scipy.optimize import minimize_scalar

from kdcli.tasks import SINGLE_LABEL, Task

_TEMPERATURE_RANGE = (0.05, 20.0)


def fit_temperature(logits: np.ndarray, references: np.ndarray, task: Task = SINGLE_LABEL) -> float:
    """The temperature that makes the logits, divided by it, likeliest to give these labels.

    Guo et al. 2017, section 4.2. It changes no prediction. The loss is convex in its inverse, so
    there is one best; it is looked for between 0.05 and 20.

    Args:
        logits: (texts, outputs).
        references: (texts,) class ids, or (texts, outputs) whether each label is there.
        task: What they are; a score has no probability, and 1 for a temperature.
    """
    if task.log_loss is None:
        return 1.0
    log_loss, logits = task.log_loss, logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return log_loss(logits * np.exp(-log_temperature), references)

    low, high = np.log(_TEMPERATURE_RANGE)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
