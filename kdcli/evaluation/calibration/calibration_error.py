"""Reliability curve and expected calibration error of predicted probabilities."""

import numpy as np
from sklearn.calibration import calibration_curve

NUM_BINS = 15


def confidence_bin_ids(confidence: np.ndarray) -> np.ndarray:
    """Return the index of each confidence in 15 bins of equal width, closed at their upper end."""
    return np.searchsorted(np.linspace(0, 1, NUM_BINS + 1)[1:-1], confidence)


def reliability_curve(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, float]]:
    """Compute the reliability curve: accuracy by confidence.

    Args:
        confidence: (texts,), the probability of the predicted label.
        correct: bool, (texts,), True if the prediction is correct.

    Returns:
        Mean `confidence`, `accuracy` and number of `texts` of each non-empty bin, by rising
        confidence.
    """
    accuracy, mean = calibration_curve(
        correct.astype(int), confidence, n_bins=NUM_BINS, pos_label=1
    )
    texts = np.bincount(confidence_bin_ids(confidence), minlength=NUM_BINS)
    return [
        {"confidence": float(c), "accuracy": float(a), "texts": int(n)}
        for c, a, n in zip(mean, accuracy, texts[texts > 0], strict=True)
    ]


def expected_calibration_error(reliability_points: list[dict[str, float]]) -> float:
    """Compute the expected calibration error (ECE): mean |accuracy - confidence| over texts.

    Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3, with 15 bins.

    Args:
        reliability_points: The result of `reliability_curve`.
    """
    total = sum(point["texts"] for point in reliability_points)
    return (
        sum(p["texts"] * abs(p["accuracy"] - p["confidence"]) for p in reliability_points) / total
    )
