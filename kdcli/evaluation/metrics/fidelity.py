"""Fidelity: how closely a model follows another one, such as a student its teacher.

Agreement and the divergence of the outputs are called fidelity by Stanton et al. 2021 (Does
Knowledge Distillation Really Work?). Flips are what users notice when one model replaces another:
a negative flip is right with the other model and wrong with this one, a positive flip is the
reverse (Yan et al. 2021, Positive-Congruent Training).
"""

import numpy as np
from scipy.special import rel_entr

from kdcli.evaluation.metrics.metric_results import MaskedValues

# A probability that has underflowed to 0 would make the divergence infinite.
_MIN_PROBABILITY = np.finfo(np.float64).tiny


def single_label_fidelity(
    probabilities: np.ndarray, other_probabilities: np.ndarray, references: np.ndarray
) -> dict[str, MaskedValues]:
    """Compare two models of one label per text.

    Args:
        probabilities: (texts, classes), of this model.
        other_probabilities: (texts, classes), of the other model.
        references: (texts,) class ids.

    Returns:
        `agreement`; `agreement_where_it_errs`, among the texts that the other model gets wrong;
        `kl`, the divergence KL(other || this) in nats; `negative_flip_rate` and
        `positive_flip_rate`, among all texts.
    """
    predicted, other_predicted = probabilities.argmax(-1), other_probabilities.argmax(-1)
    agree, correct, other_correct = (
        predicted == other_predicted,
        predicted == references,
        other_predicted == references,
    )
    return {
        "agreement": (agree, None),
        "agreement_where_it_errs": (agree, ~other_correct),
        "kl": (_divergence(other_probabilities, probabilities).sum(-1), None),
        "negative_flip_rate": (other_correct & ~correct, None),
        "positive_flip_rate": (correct & ~other_correct, None),
    }


def multi_label_fidelity(
    probabilities: np.ndarray,
    other_probabilities: np.ndarray,
    predicted: np.ndarray,
    other_predicted: np.ndarray,
    references: np.ndarray,
) -> dict[str, MaskedValues]:
    """Compare two models of several labels per text: means over the labels of each text.

    Args:
        probabilities: (texts, labels), of this model.
        other_probabilities: (texts, labels), of the other model.
        predicted: bool, (texts, labels), of this model.
        other_predicted: bool, (texts, labels), of the other model.
        references: bool, (texts, labels).

    Returns:
        `agreement`, `kl`, `negative_flip_rate` and `positive_flip_rate` of decisions on a label.
    """
    correct, other_correct = predicted == references, other_predicted == references
    divergence = _divergence(other_probabilities, probabilities) + _divergence(
        1 - other_probabilities, 1 - probabilities
    )
    values = {
        "agreement": predicted == other_predicted,
        "kl": divergence,
        "negative_flip_rate": other_correct & ~correct,
        "positive_flip_rate": correct & ~other_correct,
    }
    return {name: (value.mean(-1), None) for name, value in values.items()}


def _divergence(probabilities: np.ndarray, other_probabilities: np.ndarray) -> np.ndarray:
    return rel_entr(probabilities, np.maximum(other_probabilities, _MIN_PROBABILITY))
