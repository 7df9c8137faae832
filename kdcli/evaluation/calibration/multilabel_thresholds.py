"""Probability thresholds of multi-label models."""

from collections.abc import Mapping, Sequence

import numpy as np

DEFAULT_THRESHOLD = 0.5


def choose_multilabel_thresholds(
    probabilities: np.ndarray, references: np.ndarray, labels: Sequence[str], *, per_label: bool
) -> dict[str, float]:
    """Choose the thresholds with the highest F1.

    Args:
        probabilities: (texts, labels), of validation texts.
        references: bool, (texts, labels).
        labels: The names of the labels.
        per_label: Maximise the F1 of each label. Otherwise, or for labels without texts, one
            threshold maximises micro F1.

    Returns:
        The threshold of each label, by its name.
    """
    common = best_f1_threshold(probabilities.ravel(), references.ravel())
    if not per_label:
        return dict.fromkeys(labels, common)
    return {
        name: best_f1_threshold(probabilities[:, i], references[:, i])
        if references[:, i].any()
        else common
        for i, name in enumerate(labels)
    }


def best_f1_threshold(probabilities: np.ndarray, is_positive: np.ndarray) -> float:
    """Return the threshold with the highest F1, halfway between two probabilities.

    It is 0.5 if nothing is positive, and 0 if all decisions have to be positive and one of them has
    a probability of 0.

    Lipton et al. 2014, Thresholding Classifiers to Maximize F1 Score (arXiv:1402.1892).

    Args:
        probabilities: (decisions,).
        is_positive: bool, (decisions,).
    """
    if not is_positive.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    ranked, true_positives = probabilities[order], np.cumsum(is_positive[order])
    f1 = 2 * true_positives / (np.arange(1, len(order) + 1) + true_positives[-1])
    below = np.append(ranked[1:], 0.0)
    f1[:-1][ranked[:-1] == ranked[1:]] = -1.0  # no threshold separates equal probabilities
    last = int(f1.argmax())
    middle = (ranked[last] + below[last]) / 2
    # The middle of two adjacent floating-point numbers may be the lower one.
    return float(ranked[last] if last + 1 < len(order) and middle == below[last] else middle)


def apply_thresholds(
    probabilities: np.ndarray, thresholds: Mapping[str, float], labels: Sequence[str]
) -> np.ndarray:
    """Predict labels: bool, (texts, labels). A label without a threshold has 0.5."""
    return probabilities >= np.array([thresholds.get(name, DEFAULT_THRESHOLD) for name in labels])
