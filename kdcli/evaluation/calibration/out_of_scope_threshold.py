"""Thresholds below which a text is labelled as out of scope."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcli.evaluation.metrics import out_of_scope


@dataclass(frozen=True)
class OutOfScopeThreshold:
    """Threshold below which a text is refused, that is, labelled as out of scope.

    Attributes:
        label: The out-of-scope label.
        score: The in-scope score, one of `out_of_scope.SCORE_NAMES`.
        threshold: Texts with a lower score are refused.
        refuse_at_most: The share of in-scope validation texts that it may refuse.
    """

    label: str
    score: str
    threshold: float
    refuse_at_most: float

    def predict_with_refusal(self, logits: np.ndarray, out_of_scope_id: int) -> np.ndarray:
        """Predict class ids, (texts,): the out-of-scope id for refused texts, else the best other.

        Args:
            logits: (texts, classes).
            out_of_scope_id: The id of the out-of-scope label.
        """
        refused = out_of_scope.in_scope_score(self.score, logits, out_of_scope_id) < self.threshold
        in_scope = logits.copy()
        in_scope[:, out_of_scope_id] = -np.inf
        return np.where(refused, out_of_scope_id, in_scope.argmax(-1))


def choose_out_of_scope_thresholds(
    logits: np.ndarray,
    references: np.ndarray,
    out_of_scope_id: int,
    out_of_scope_label: str,
    refusal_budgets: Sequence[float],
) -> list[OutOfScopeThreshold]:
    """Choose the threshold that refuses the most texts, for each budget of in-scope refusals.

    The thresholds are on the score with the highest AUROC on the same texts, or on the probability
    if no text is out of scope.

    Args:
        logits: (texts, classes), of validation texts.
        references: (texts,) class ids.
        out_of_scope_id: The id of the out-of-scope label.
        out_of_scope_label: The name of the out-of-scope label.
        refusal_budgets: Shares of the in-scope texts, between 0 and 1.

    Returns:
        A threshold for each budget; none if no text is in scope.
    """
    is_out_of_scope = references == out_of_scope_id
    if is_out_of_scope.all():
        return []
    scores = {
        n: out_of_scope.in_scope_score(n, logits, out_of_scope_id) for n in out_of_scope.SCORE_NAMES
    }
    best = out_of_scope.SCORE_NAMES[0]
    if is_out_of_scope.any():
        best = max(
            scores,
            key=lambda n: out_of_scope.out_of_scope_detection_metrics(scores[n], is_out_of_scope)[
                "auroc"
            ],
        )
    thresholds = (
        threshold_within_budget(scores[best], ~is_out_of_scope, share) for share in refusal_budgets
    )
    return [
        OutOfScopeThreshold(out_of_scope_label, best, value, share)
        for value, share in zip(thresholds, refusal_budgets, strict=True)
    ]


def threshold_within_budget(
    scores: np.ndarray, is_in_scope: np.ndarray, refuse_at_most: float
) -> float:
    """Return the threshold that refuses the most texts within the budget.

    It lies halfway between the lowest score that is kept and the highest that is refused, so that
    rounding in another batch or on another machine changes no decision on these texts.

    Args:
        scores: (texts,) of all texts.
        is_in_scope: bool, (texts,), True for at least one text.
        refuse_at_most: The share of in-scope texts that may be refused, from 0 up to but not
            including 1.
    """
    in_scope_scores = scores[is_in_scope]
    count = len(in_scope_scores)
    # Compare quotients, not products: 29 / 100 equals 0.29 in floating point, but 0.29 * 100 is
    # less than 29.
    allowed = np.count_nonzero(np.arange(1, count) / count <= refuse_at_most)
    kept = np.partition(in_scope_scores, allowed)[allowed]
    below, above = scores[scores < kept], scores[scores > kept]
    if len(below):
        gap = kept - below.max()
    else:  # Nothing is refused: use the distance to the next score above.
        gap = above.min() - kept if len(above) else np.abs(kept) or 1.0
    middle = kept - gap / 2
    # The middle of two adjacent floating-point numbers is one of the two.
    return float(middle if not len(below) or middle > below.max() else kept)
