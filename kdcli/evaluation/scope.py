"""How well a model tells texts that it has a label for from those that it hasn't.

Every score is of the labels that mean something: what the model says of them is what tells whether
one of them fits. The higher it is, the more a text is in scope.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.linalg import eigh
from scipy.spatial.distance import cdist
from scipy.special import entr, logsumexp, softmax
from sklearn.covariance import LedoitWolf
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

_CAUGHT = 0.95


def _probability(logits: np.ndarray, label: int) -> np.ndarray:
    return np.delete(softmax(logits, axis=-1), label, axis=1).max(axis=-1)


def _margin(logits: np.ndarray, label: int) -> np.ndarray:
    return np.delete(logits, label, axis=1).max(axis=-1) - logits[:, label]


def _energy(logits: np.ndarray, label: int) -> np.ndarray:
    return logsumexp(np.delete(logits, label, axis=1), axis=-1)


def _entropy(logits: np.ndarray, label: int) -> np.ndarray:
    return -entr(softmax(np.delete(logits, label, axis=1), axis=-1)).sum(axis=-1)


_SCORES: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "probability": _probability,
    "margin": _margin,
    "energy": _energy,
    "entropy": _entropy,
}
SCORES = tuple(_SCORES)


def score(name: str, logits: np.ndarray, label: int) -> np.ndarray:
    """How much each text is in scope, by the logits alone.

    Args:
        name: `probability`, of the best in-scope label (Hendrycks & Gimpel 2017); `margin`, its
            logit less that of the out-of-scope label; `energy`, the negative energy of the
            in-scope logits (Liu et al. 2020, equation 4, T = 1); `entropy`, the negative entropy
            among the in-scope labels, in nats.
        logits: (texts, classes).
        label: The out-of-scope label's id.

    Returns:
        float64, (texts,).
    """
    return _SCORES[name](logits.astype(np.float64), label)


class Mahalanobis:
    """The distance to the nearest class, by the states that a model's last layer reads.

    Lee et al. 2018, A Simple Unified Framework for Detecting Out-of-Distribution Samples, equation
    2: class means and one covariance for all. It is shrunk (Ledoit & Wolf), for there may be
    fewer texts than dimensions.

    Args:
        states: (texts, width) of in-scope training texts.
        references: (texts,) their class ids.
    """

    def __init__(self, states: np.ndarray, references: np.ndarray) -> None:
        _, places = np.unique(references, return_inverse=True)
        sums = np.zeros((places.max() + 1, states.shape[1]))
        np.add.at(sums, places, states)
        means = sums / np.bincount(places)[:, None]
        covariance = LedoitWolf(assume_centered=True).fit(states - means[places]).covariance_
        spread, directions = eigh(covariance)
        # Directions in which the texts don't differ at all can't tell how far another one is.
        kept = spread > 1e-10 * spread.max()
        self._whiten = directions[:, kept] / np.sqrt(spread[kept])
        self._means = means @ self._whiten

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """The negative squared distance of (texts, width) to the nearest mean, (texts,)."""
        return -cdist(states @ self._whiten, self._means, "sqeuclidean").min(axis=1)


def separation(score: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """How well a score separates, whatever the threshold; out of scope is what is looked for.

    Args:
        score: (texts,) the higher, the more in scope.
        outside: (texts,) whether a text is out of scope; some are, and some aren't.

    Returns:
        `auroc`; `aupr` (average precision); `fpr_at_95_tpr`, the share of in-scope texts that is
        refused by the threshold that catches 95 % of the others.
    """
    refused, caught, _ = roc_curve(outside, -score)
    return {
        "auroc": float(roc_auc_score(outside, -score)),
        "aupr": float(average_precision_score(outside, -score)),
        "fpr_at_95_tpr": float(refused[caught >= _CAUGHT].min()),
    }
