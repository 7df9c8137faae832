"""How much a model answers as another one does: a student and its teacher."""

import numpy as np
from scipy.special import rel_entr

from kdcli.evaluation.metrics.metric_results import MaskedValues


def per_text_fidelity(
    probabilities: np.ndarray, other_probabilities: np.ndarray, references: np.ndarray
) -> dict[str, MaskedValues]:
    """What is counted to compare a model with the one that it stands beside.

    Agreement, and the divergence of the outputs, are what Stanton et al. 2021 (Does Knowledge
    Distillation Really Work?) call fidelity. Flips are what a user of the other model notices
    when this one takes its place: what was right and breaks (negative), what was wrong and is
    repaired (positive; Yan et al. 2021, Positive-Congruent Training).

    Args:
        probabilities: (texts, classes), this model's.
        other_probabilities: (texts, classes), the other one's.
        references: (texts,) class ids.

    Returns:
        `agreement`; `agreement_where_it_errs`, among the texts that the other model gets wrong;
        `kl`, the divergence KL(other || this) in nats; `negative_flip_rate`,
        `positive_flip_rate`, among all texts.
    """
    mine, its = probabilities.argmax(-1), other_probabilities.argmax(-1)
    correct, right = mine == references, its == references
    # A probability that has underflowed to 0 would make the divergence infinite.
    divergence = rel_entr(
        other_probabilities, np.maximum(probabilities, np.finfo(np.float64).tiny)
    ).sum(-1)
    return {
        "agreement": (mine == its, None),
        "agreement_where_it_errs": (mine == its, ~right),
        "kl": (divergence, None),
        "negative_flip_rate": (right & ~correct, None),
        "positive_flip_rate": (correct & ~right, None),
    }
