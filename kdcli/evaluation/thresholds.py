"""From which probability on a label is given, where a text may have several."""

from collections.abc import Mapping, Sequence

import numpy as np

HALF = 0.5


def choose(
    probabilities: np.ndarray, there: np.ndarray, labels: Sequence[str], *, each: bool
) -> dict[str, float]:
    """The thresholds that give the best F1: micro F1 with one for all, or each label its own.

    A label that no text has takes the one for all: it has no F1 of its own.

    Args:
        probabilities: (texts, labels), of validation texts.
        there: (texts, labels) whether each label is there.
        labels: Their names.
        each: Whether each label has its own.

    Returns:
        The threshold of each label, by its name.
    """
    for_all = best(probabilities.ravel(), there.ravel())
    if not each:
        return dict.fromkeys(labels, for_all)
    return {
        name: best(probabilities[:, i], there[:, i]) if there[:, i].any() else for_all
        for i, name in enumerate(labels)
    }


def best(probabilities: np.ndarray, there: np.ndarray) -> float:
    """The threshold of the best F1, halfway between two probabilities; a half where none is there.

    It is 0 where all decisions have to be so, and one of them has a probability of 0.

    Lipton et al. 2014, Thresholding Classifiers to Maximize F1 Score (arXiv:1402.1892).

    Args:
        probabilities: (decisions,).
        there: (decisions,) what is so.
    """
    if not there.any():
        return HALF
    order = np.argsort(-probabilities, kind="stable")
    certain, right = probabilities[order], np.cumsum(there[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + right[-1])
    below = np.append(certain[1:], 0.0)
    f1[:-1][certain[:-1] == certain[1:]] = -1.0  # no threshold parts the two
    last = int(f1.argmax())
    middle = (certain[last] + below[last]) / 2
    # Of two neighbouring floating-point numbers the middle may be the lower one.
    return float(certain[last] if last + 1 < len(order) and middle == below[last] else middle)


def given(
    probabilities: np.ndarray, thresholds: Mapping[str, float], labels: Sequence[str]
) -> np.ndarray:
    """Which labels the texts get, bool, (texts, labels); one without a threshold from a half on."""
    return probabilities >= np.array([thresholds.get(name, HALF) for name in labels])
