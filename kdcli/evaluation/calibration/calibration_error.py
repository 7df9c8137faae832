"""Whether a probability of 0.9 is right nine times in ten, and the one number that mends it."""

import numpy as np
from scipy.optimize import minimize_scalar

from kdcli.tasks import SINGLE_LABEL, Task

NUM_BINS = 15
_TEMPERATURE_RANGE = (0.05, 20.0)


def confidence_bin_ids(confidence: np.ndarray) -> np.ndarray:
    """Which of 15 bins of equal width, open below and closed above, a confidence falls into."""
    return np.searchsorted(np.linspace(0, 1, NUM_BINS + 1)[1:-1], confidence)


def reliability_curve(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, float]]:
    """The reliability curve: how often a model is right where it is so sure.

    Args:
        confidence: (texts,) the probability of the predicted label.
        correct: (texts,) whether it is the right one.

    Returns:
        For each bin that holds texts, from the least sure to the surest: mean `confidence`,
        `accuracy`, `texts`.
    """
    # The temperature, which planning needs too, does without what takes a second to import.
    from sklearn.calibration import calibration_curve

    accuracy, mean = calibration_curve(
        correct.astype(int), confidence, n_bins=NUM_BINS, pos_label=1
    )
    texts = np.bincount(confidence_bin_ids(confidence), minlength=NUM_BINS)
    return [
        {"confidence": float(c), "accuracy": float(a), "texts": int(n)}
        for c, a, n in zip(mean, accuracy, texts[texts > 0], strict=True)
    ]


def expected_calibration_error(reliability_points: list[dict[str, float]]) -> float:
    """The expected calibration error (ECE): |accuracy - confidence|, averaged over texts.

    Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3, with 15 bins.

    Args:
        reliability_points: As `reliability` gives it.
    """
    total = sum(point["texts"] for point in reliability_points)
    return (
        sum(p["texts"] * abs(p["accuracy"] - p["confidence"]) for p in reliability_points) / total
    )


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
