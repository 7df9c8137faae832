"""From which probability on a label is given, where a text may have several."""

from collections.abc import Mapping, Sequence

import numpy as np

DEFAULT_THRESHOLD = 0.5


def choose_multilabel_thresholds(
    probabilities: np.ndarray, references: np.ndarray, labels: Sequence[str], *, per_label: bool
) -> dict[str, float]:
    """The thresholds that give the best F1: micro F1 with one for all, or each label its own.

    A label that no text has takes the one for all: it has no F1 of its own.

    Args:
        probabilities: (texts, labels), of validation texts.
        references: (texts, labels) whether each label is there.
        labels: Their names.
        per_label: Whether each label has its own.

    Returns:
        The threshold of each label, by its name.
    """
    for_all = best_f1_threshold(probabilities.ravel(), references.ravel())
    if not per_label:
        return dict.fromkeys(labels, for_all)
    return {
        name: best_f1_threshold(probabilities[:, i], references[:, i])
        if references[:, i].any()
        else for_all
        for i, name in enumerate(labels)
    }


def best_f1_threshold(probabilities: np.ndarray, is_positive: np.ndarray) -> float:
    """The threshold of the best F1, halfway between two probabilities; a half where none is there.

    It is 0 where all decisions have to be so, and one of them has a probability of 0.

    Lipton et al. 2014, Thresholding Classifiers to Maximize F1 Score (arXiv:1402.1892).

    Args:
        probabilities: (decisions,).
        is_positive: (decisions,) what is so.
    """
    if not is_positive.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    certain, right = probabilities[order], np.cumsum(is_positive[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + right[-1])
    below = np.append(certain[1:], 0.0)
    f1[:-1][certain[:-1] == certain[1:]] = -1.0  # no threshold parts the two
    last = int(f1.argmax())
    middle = (certain[last] + below[last]) / 2
    # Of two neighbouring floating-point numbers the middle may be the lower one.
    return float(certain[last] if last + 1 < len(order) and middle == below[last] else middle)


def apply_thresholds(
    probabilities: np.ndarray, thresholds: Mapping[str, float], labels: Sequence[str]
) -> np.ndarray:
    """Which labels the texts get, bool, (texts, labels); one without a threshold from a half on."""
    return probabilities >= np.array([thresholds.get(name, DEFAULT_THRESHOLD) for name in labels])
