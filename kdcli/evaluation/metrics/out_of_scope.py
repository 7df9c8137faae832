"""Out-of-scope detection: in-scope scores, and how well they separate.

Every score measures how well one of the in-scope labels fits a text: the higher, the more likely
the text is in scope.
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
    """Compute an in-scope score from logits.

    Args:
        score_name: `probability`, of the best in-scope label (Hendrycks & Gimpel 2017);
            `margin`, its logit minus that of the out-of-scope label; `energy`, the negative
            energy of the in-scope logits (Liu et al. 2020, equation 4, T = 1); `entropy`, the
            negative entropy of the in-scope labels, in nats.
        logits: (texts, classes).
        out_of_scope_id: The id of the out-of-scope label.

    Returns:
        float64, (texts,).
    """
    return _SCORE_FUNCTIONS[score_name](logits.astype(np.float64), out_of_scope_id)


class MahalanobisInScopeScorer:
    """In-scope score by the Mahalanobis distance of features to the nearest class mean.

    Lee et al. 2018, A Simple Unified Framework for Detecting Out-of-Distribution Samples, equation
    2: class means and a shared covariance, shrunk (Ledoit & Wolf) because there may be fewer texts
    than dimensions.

    Args:
        features: (texts, width), of in-scope training texts.
        references: (texts,), their class ids.
    """

    def __init__(self, features: np.ndarray, references: np.ndarray) -> None:
        _, class_indices = np.unique(references, return_inverse=True)
        means = np.stack(
            [
                features[class_indices == i].mean(0, dtype=np.float64)
                for i in range(class_indices.max() + 1)
            ]
        )
        covariance = (
            LedoitWolf(assume_centered=True).fit(features - means[class_indices]).covariance_
        )
        variances, directions = eigh(covariance)
        # Directions without variance would give infinite distances.
        kept = variances > 1e-10 * variances.max()
        self._whiten = directions[:, kept] / np.sqrt(variances[kept])
        self._means = means @ self._whiten

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the negative squared distance of features, (texts, width), as (texts,)."""
        return -cdist(features @ self._whiten, self._means, "sqeuclidean").min(axis=1)


def out_of_scope_detection_metrics(
    in_scope_scores: np.ndarray, is_out_of_scope: np.ndarray
) -> dict[str, float]:
    """Compute threshold-free metrics of out-of-scope detection; out of scope is positive.

    Args:
        in_scope_scores: (texts,), higher for in-scope texts.
        is_out_of_scope: bool, (texts,), with both values.

    Returns:
        `auroc`; `aupr` (average precision); `fpr_at_95_tpr`, the share of in-scope texts that are
        refused at the threshold that finds 95 % of the out-of-scope texts.
    """
    fpr, tpr, _ = roc_curve(is_out_of_scope, -in_scope_scores)
    return {
        "auroc": float(roc_auc_score(is_out_of_scope, -in_scope_scores)),
        "aupr": float(average_precision_score(is_out_of_scope, -in_scope_scores)),
        "fpr_at_95_tpr": float(fpr[tpr >= _TARGET_TPR].min()),
    }
