"""The figures of one label a text: what of the labels and their probabilities is right."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcli.evaluation import fidelity, metrics, operating, scope
from kdcli.evaluation.calibration import expected_error, fit_temperature, reliability
from kdcli.evaluation.figures import Answers, Chosen, Figures, Truth, means
from kdcli.evaluation.operating import OperatingPoint, Settings
from kdcli.evaluation.uncertainty import Rate, mcnemar
from kdcli.recipe.schema import EvaluateSpec

_THRESHOLD = "_at_threshold"
_CALIBRATED = "_calibrated"
_BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1)


def choose(
    logits: np.ndarray,
    references: np.ndarray,
    labels: Sequence[str],
    outside: int | None,
    spec: EvaluateSpec,
) -> Chosen:
    """Temperature and threshold, on validation texts; see `kdcli.evaluation.kinds.Kind`."""
    temperature = fit_temperature(logits, references)
    if outside is None:
        return Chosen(Settings(temperature))
    budgets = (spec.refuse_at_most, *_BUDGETS)
    points = operating.choose(logits, references, outside, labels[outside], budgets)
    return Chosen(Settings(temperature, points[0] if points else None), points[1:])


def figures(truth: Truth, said: Answers, other: Answers | None = None) -> Figures:
    """All figures of a model on a split.

    Args:
        truth: The split.
        said: The model's answers.
        other: Those of the model that it is compared with.
    """
    found = Figures(labelled(truth.references, said.predictions, truth.outside))
    rates = _label_rates(truth, said.predictions)
    _add_probabilities(found, rates, truth, said.probabilities)
    if said.settings is not None:
        calibrated = said.at(said.settings.temperature)
        _add_probabilities(found, rates, truth, calibrated, _CALIBRATED)
    if truth.outside is not None:
        _add_scope(found, rates, truth, said, truth.outside)
    if other is not None:
        fidelity_rates = fidelity.rates(said.probabilities, other.probabilities, truth.references)
        found.points |= means(fidelity_rates)
        rates |= fidelity_rates
    found.draws |= truth.resamples.rates(rates)
    found.draws["micro_f1"] = found.draws["accuracy"]  # the same, where a text has one label
    found.draws |= truth.resamples.of_classes(said.predictions, truth.references, len(truth.labels))
    found.details["classes"] = metrics.of_classes(said.predictions, truth.references, truth.labels)
    found.details["confusion"] = metrics.confusion(said.predictions, truth.references)
    return found


def labelled(
    references: np.ndarray, predictions: np.ndarray, outside: int | None
) -> dict[str, float]:
    """The figures that predicted labels alone give.

    Args:
        references: (texts,) the data's class ids.
        predictions: (texts,) the model's.
        outside: The out-of-scope label's id, where one is named.
    """
    found = metrics.compute(metrics.Classification, predictions, references)
    if outside is not None:
        found |= metrics.compute(metrics.OutOfScope, predictions, references, label=outside)
    return found


def against(truth: Truth, said: Answers, others: Answers) -> dict[str, Any]:
    """How often two models agree, and McNemar's test of which is right more often."""
    return {
        "agreement": float((said.predictions == others.predictions).mean()),
        **mcnemar(said.predictions == truth.references, others.predictions == truth.references),
    }


def in_words(labels: Sequence[str], predictions: np.ndarray) -> list[str]:
    """The labels' names, for each of some class ids."""
    return [labels[i] for i in predictions]


def confidence(said: Answers) -> np.ndarray:
    """The probability of the label given, (texts,)."""
    return said.probabilities.max(-1)


def at_budgets(
    truth: Truth, said: Answers, points: Sequence[OperatingPoint]
) -> list[dict[str, float]]:
    """What several thresholds do: for whoever wants to choose another budget.

    Args:
        truth: The split; a label is named out of scope.
        said: The model's answers.
        points: The thresholds.
    """
    assert truth.outside is not None
    return [
        {
            "refuse_at_most": point.refuse_at_most,
            "threshold": point.threshold,
            **means(_label_rates(truth, point.predict(said.logits, truth.outside))),
        }
        for point in points
    ]


def _add_probabilities(
    found: Figures,
    rates: dict[str, Rate],
    truth: Truth,
    probabilities: np.ndarray,
    suffix: str = "",
) -> None:
    references, predictions = truth.references, probabilities.argmax(-1)
    points = metrics.compute(
        metrics.Probabilities, predictions, references, probabilities=probabilities
    )
    if suffix:
        # A temperature changes no order: top-k is as it was.
        points = {name: points[name] for name in ("log_loss", "brier")}
    found.points |= {name + suffix: value for name, value in points.items()}
    right = probabilities[np.arange(len(references)), references]
    each: dict[str, np.ndarray] = {
        "log_loss": -np.log(np.maximum(right, np.finfo(np.float64).eps)),
        "brier": (probabilities**2).sum(-1) - 2 * right + 1,
    }
    rank = metrics.ranks(probabilities, references)
    each |= {f"top_{k}_accuracy": rank < k for k in metrics.TOP}
    rates.update({name + suffix: (each[name], None) for name in points})
    confidence, correct = probabilities.max(-1), predictions == references
    curve = reliability(confidence, correct)
    found.details["reliability" + suffix] = curve
    found.points["ece" + suffix] = expected_error(curve)
    found.draws["ece" + suffix] = truth.resamples.calibration_error(
        confidence, correct, np.ones_like(correct)
    )
    inside = truth.inside
    if truth.outside is not None and inside.any():
        name = "in_scope_ece" + suffix
        found.points[name] = expected_error(reliability(confidence[inside], correct[inside]))
        found.draws[name] = truth.resamples.calibration_error(confidence, correct, inside)


def _add_scope(
    found: Figures, rates: dict[str, Rate], truth: Truth, said: Answers, outside: int
) -> None:
    point, inside = said.point, truth.inside
    if point is not None:
        refusing = {
            name + _THRESHOLD: rate
            for name, rate in _label_rates(truth, point.predict(said.logits, outside)).items()
        }
        found.points |= means(refusing)
        rates |= refusing
    if inside.all() or not inside.any():
        return
    scores = {name: scope.score(name, said.logits, outside) for name in scope.SCORES}
    scores |= said.scores
    found.details["scores"] = {n: scope.separation(s, ~inside) for n, s in scores.items()}
    if point is not None:
        found.points["out_of_scope_auroc"] = found.details["scores"][point.score]["auroc"]
        found.draws["out_of_scope_auroc"] = truth.resamples.auroc(-scores[point.score], ~inside)


def _label_rates(truth: Truth, predictions: np.ndarray) -> dict[str, Rate]:
    correct, inside = predictions == truth.references, truth.inside
    found: dict[str, Rate] = {"accuracy": (correct, None)}
    if truth.outside is not None:
        refused = predictions == truth.outside
        if inside.any():
            found["in_scope_accuracy"] = (correct, inside)
            found["in_scope_refused"] = (refused, inside)
        if not inside.all():
            found["out_of_scope_recall"] = (refused, ~inside)
    return found
