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

_TARGET_TPR = 0.95


def _max_in_scope_probability(logits: np.ndarray, out_of_scope_id: int) -> np.ndarray:
    return np.delete(softmax(logits, axis=-1), out_of_scope_id, axis=1).max(axis=-1)


def _logit_margin(logits: np.ndarray, out_of_scope_id: int) -> np.ndarray:
    return np.delete(logits, out_of_scope_id, axis=1).max(axis=-1) - logits[:, out_of_scope_id]


def _negative_energy(logits: np.ndarray, out_of_scope_id: int) -> np.ndarray:
    return logsumexp(np.delete(logits, out_of_scope_id, axis=1), axis=-1)


def _negative_entropy(logits: np.ndarray, out_of_scope_id: int) -> np.ndarray:
    return -entr(softmax(np.delete(logits, out_of_scope_id, axis=1), axis=-1)).sum(axis=-1)


_SCORE_FUNCTIONS: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "probability": _max_in_scope_probability,
    "margin": _logit_margin,
    "energy": _negative_energy,
    "entropy": _negative_entropy,
}
SCORE_NAMES = tuple(_SCORE_FUNCTIONS)


def in_scope_score(score_name: str, logits: np.ndarray, out_of_scope_id: int) -> np.ndarray:
    """How much each text is in scope, by the logits alone.

    Args:
        score_name: `probability`, of the best in-scope label (Hendrycks & Gimpel 2017); `margin`, its
            logit less that of the out-of-scope label; `energy`, the negative energy of the
            in-scope logits (Liu et al. 2020, equation 4, T = 1); `entropy`, the negative entropy
            among the in-scope labels, in nats.
        logits: (texts, classes).
        out_of_scope_id: The out-of-scope label's id.

    Returns:
        float64, (texts,).
    """
    return _SCORE_FUNCTIONS[score_name](logits.astype(np.float64), out_of_scope_id)


class MahalanobisScorer:
    """The distance to the nearest class, by the states that a model's last layer reads.

    Lee et al. 2018, A Simple Unified Framework for Detecting Out-of-Distribution Samples, equation
    2: class means and one covariance for all. It is shrunk (Ledoit & Wolf), for there may be
    fewer texts than dimensions.

    Args:
        states: (texts, width) of in-scope training texts.
        references: (texts,) their class ids.
    """

    def __init__(self, features: np.ndarray, references: np.ndarray) -> None:
        _, places = np.unique(references, return_inverse=True)
        means = np.stack(
            [features[places == i].mean(0, dtype=np.float64) for i in range(places.max() + 1)]
        )
        covariance = LedoitWolf(assume_centered=True).fit(features - means[places]).covariance_
        spread, directions = eigh(covariance)
        # Directions in which the texts don't differ at all can't tell how far another one is.
        kept = spread > 1e-10 * spread.max()
        self._whiten = directions[:, kept] / np.sqrt(spread[kept])
        self._means = means @ self._whiten

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """The negative squared distance of (texts, width) to the nearest mean, (texts,)."""
        return -cdist(features @ self._whiten, self._means, "sqeuclidean").min(axis=1)


def out_of_scope_detection_metrics(
    in_scope_scores: np.ndarray, is_out_of_scope: np.ndarray
) -> dict[str, float]:
    """How well a score separates, whatever the threshold; out of scope is what is looked for.

    Args:
        in_scope_scores: (texts,) the higher, the more in scope.
        is_out_of_scope: (texts,) whether a text is out of scope; some are, and some aren't.

    Returns:
        `auroc`; `aupr` (average precision); `fpr_at_95_tpr`, the share of in-scope texts that is
        refused by the threshold that catches 95 % of the others.
    """
    refused, caught, _ = roc_curve(is_out_of_scope, -in_scope_scores)
    return {
        "auroc": float(roc_auc_score(is_out_of_scope, -in_scope_scores)),
        "aupr": float(average_precision_score(is_out_of_scope, -in_scope_scores)),
        "fpr_at_95_tpr": float(refused[caught >= _TARGET_TPR].min()),
    }
