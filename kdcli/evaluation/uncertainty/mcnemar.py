"""McNemar's test of whether two models have the same accuracy."""

from typing import Any

import numpy as np
from scipy.stats import binomtest


def mcnemar_test(correct: np.ndarray, other_correct: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test of whether two models are right equally often on the same texts.

    Where they are, a text that only one of them gets right is either's with the same chance
    (McNemar 1947, in the exact form by the binomial distribution).

    Args:
        correct: (texts,) where this model is right.
        other_correct: (texts,) where the other one is.

    Returns:
        `broken`, the texts that the other one alone gets right; `repaired`, those that this one
        does; `p`.
    """
    broken, repaired = int((other_correct & ~correct).sum()), int((correct & ~other_correct).sum())
    p = binomtest(broken, broken + repaired).pvalue if broken + repaired else 1.0
    return {"broken": broken, "repaired": repaired, "p": float(p)}
