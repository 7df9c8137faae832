"""The figures of a score a text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from kdcli.evaluation.figures import Answers, Chosen, Figures, Truth
from kdcli.evaluation.operating import Settings
from kdcli.recipe.schema import EvaluateSpec
from kdcli.tasks import REGRESSION

_FIDELITY = "fidelity_"


def choose(
    logits: np.ndarray,
    references: np.ndarray,
    labels: Sequence[str],
    outside: int | None,
    spec: EvaluateSpec,
) -> Chosen:
    """Nothing is to be chosen: a score is what it is; see `kdcli.evaluation.kinds.Kind`."""
    return Chosen(Settings(1.0))


def figures(truth: Truth, said: Answers, other: Answers | None = None) -> Figures:
    """All figures of a model on a split.

    Args:
        truth: The split.
        said: The model's answers.
        other: Those of the model that it is compared with.
    """
    found = Figures(labelled(truth.references, said.predictions))
    found.draws |= truth.resamples.of_scores(said.predictions, truth.references)
    if other is not None:
        points = labelled(other.predictions, said.predictions)
        draws = truth.resamples.of_scores(said.predictions, other.predictions)
        for name in ("pearson", "rmse"):
            found.points[_FIDELITY + name] = points[name]
            found.draws[_FIDELITY + name] = draws[name]
    return found


def labelled(
    references: np.ndarray, predictions: np.ndarray, outside: int | None = None
) -> dict[str, float]:
    """How near scores are, and how much they rise and fall alike.

    A correlation with what is the same for all texts has no value, and stands as 0.

    Args:
        references: (texts,) the data's scores.
        predictions: (texts,) the model's.
        outside: Unused: a score is never out of scope.
    """
    vary = len(references) > 1 and np.ptp(references) > 0 and np.ptp(predictions) > 0
    return {
        "spearman": REGRESSION.score(predictions, references),
        "pearson": float(pearsonr(predictions, references).statistic) if vary else 0.0,
        "mae": float(mean_absolute_error(references, predictions)),
        "rmse": float(root_mean_squared_error(references, predictions)),
    }


def against(truth: Truth, said: Answers, others: Answers) -> dict[str, Any]:
    """No score is right or wrong: what tells two models apart is in their figures' differences."""
    return {}


def in_words(labels: Sequence[str], predictions: np.ndarray) -> list[str]:
    """Scores, (texts,), to three places."""
    return [f"{score:.3f}" for score in predictions]


def confidence(said: Answers) -> None:
    """A score has no probability."""
