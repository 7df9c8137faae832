"""Temperature scaling: one number that calibrates a model's probabilities."""

import numpy as np
from scipy.optimize import minimize_scalar

from kdcli.tasks import SINGLE_LABEL, Task

_TEMPERATURE_RANGE = (0.05, 20.0)


def fit_temperature(logits: np.ndarray, references: np.ndarray, task: Task = SINGLE_LABEL) -> float:
    """Fit the temperature that minimises the log loss of the logits divided by it.

    Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2. Temperature scaling
    changes no prediction. The loss is convex in the inverse temperature, so it has one minimum,
    which is searched between 0.05 and 20.

    Args:
        logits: (texts, outputs).
        references: (texts,) class ids, or bool, (texts, outputs).
        task: The task. Regression has no probabilities, and a temperature of 1.
    """
    if task.log_loss is None:
        return 1.0
    log_loss, logits = task.log_loss, logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return log_loss(logits * np.exp(-log_temperature), references)

    low, high = np.log(_TEMPERATURE_RANGE)
    result = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(result.x))
