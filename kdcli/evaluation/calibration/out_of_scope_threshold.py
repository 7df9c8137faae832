"""Thresholds below which a text is labelled as out of scope."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcli.evaluation.metrics import out_of_scope


@dataclass(frozen=True)
class OutOfScopeThreshold:
    """When a text is refused, that is, labelled out of scope: where its score is too low.

    Attributes:
        label: The out-of-scope label.
        score: One of `kdcli.evaluation.scope.SCORES`.
        threshold: A text whose score is below it is refused.
        refuse_at_most: The share of in-scope texts that it was allowed to refuse where it was
            chosen.
    """

    label: str
    score: str
    threshold: float
    refuse_at_most: float

    def predict_with_refusal(self, logits: np.ndarray, out_of_scope_id: int) -> np.ndarray:
        """Class ids, (texts,): the best in-scope label, or that of the texts that are refused.

        Args:
            logits: (texts, classes).
            out_of_scope_id: The out-of-scope label's id.
        """
        refused = out_of_scope.in_scope_score(self.score, logits, out_of_scope_id) < self.threshold
        inside = logits.copy()
        inside[:, out_of_scope_id] = -np.inf
        return np.where(refused, out_of_scope_id, inside.argmax(-1))


def choose_out_of_scope_thresholds(
    logits: np.ndarray,
    references: np.ndarray,
    out_of_scope_id: int,
    out_of_scope_label: str,
    refusal_budgets: Sequence[float],
) -> list[OutOfScopeThreshold]:
    """For each budget of refused in-scope texts, the threshold that refuses the most.

    It is on the score that separates best on the same texts; on the probability, where they
    hold none that is out of scope.

    Args:
        logits: (texts, classes), of validation texts.
        references: (texts,) class ids.
        out_of_scope_id: The out-of-scope label's id.
        out_of_scope_label: Its name.
        refusal_budgets: Shares of the in-scope texts, between 0 and 1.

    Returns:
        Nothing where no text is in scope.
    """
    outside = references == out_of_scope_id
    if outside.all():
        return []
    scores = {
        n: out_of_scope.in_scope_score(n, logits, out_of_scope_id) for n in out_of_scope.SCORE_NAMES
    }
    best = out_of_scope.SCORE_NAMES[0]
    if outside.any():
        best = max(
            scores,
            key=lambda n: out_of_scope.out_of_scope_detection_metrics(scores[n], outside)["auroc"],
        )
    chosen = (threshold_within_budget(scores[best], ~outside, share) for share in refusal_budgets)
    return [
        OutOfScopeThreshold(out_of_scope_label, best, value, share)
        for value, share in zip(chosen, refusal_budgets, strict=True)
    ]


def threshold_within_budget(
    scores: np.ndarray, is_in_scope: np.ndarray, refuse_at_most: float
) -> float:
    """Return the threshold that refuses the most texts within the budget.

    It lies halfway between the lowest score that is kept and the highest that is refused, so that
    rounding in another batch or on another machine changes no decision on these texts.

    Args:
        scores: (texts,) of all texts.
        is_in_scope: (texts,) whether a text is in scope; some are.
        refuse_at_most: The share of in-scope texts that may be refused, from 0 up to but not
            including 1.
    """
    of_inside = scores[is_in_scope]
    count = len(of_inside)
    # Compare quotients, not products: 29 / 100 is the number that a person writes as 0.29, but
    # 0.29 * 100 is less than 29.
    allowed = np.count_nonzero(np.arange(1, count) / count <= refuse_at_most)
    kept = np.partition(of_inside, allowed)[allowed]
    below, above = scores[scores < kept], scores[scores > kept]
    if len(below):
        gap = kept - below.max()
    else:  # Nothing is refused: the margin is that to the next score above.
        gap = above.min() - kept if len(above) else np.abs(kept) or 1.0
    middle = kept - gap / 2
    # Of two neighbouring floating-point numbers the middle is one of the two.
    return float(middle if not len(below) or middle > below.max() else kept)
