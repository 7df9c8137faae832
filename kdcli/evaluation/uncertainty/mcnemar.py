"""McNemar's test of whether two models have the same accuracy."""

from typing import Any

import numpy as np
from scipy.stats import binomtest


def mcnemar_test(correct: np.ndarray, other_correct: np.ndarray) -> dict[str, Any]:
    """Test whether two models have the same accuracy on the same texts.

    If they have, a text that only one of them gets right is equally likely to be either's
    (McNemar 1947, in the exact form with the binomial distribution).

    Args:
        correct: bool, (texts,), of this model.
        other_correct: bool, (texts,), of the other model.

    Returns:
        `broken`, the number of texts that only the other model gets right; `repaired`, the number
        that only this model gets right; `p`, the p-value.
    """
    broken, repaired = int((other_correct & ~correct).sum()), int((correct & ~other_correct).sum())
    p = binomtest(broken, broken + repaired).pvalue if broken + repaired else 1.0
    return {"broken": broken, "repaired": repaired, "p": float(p)}
