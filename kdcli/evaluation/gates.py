"""Thresholds for CI: figures that must not be missed."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kdcli.errors import UsageError
from kdcli.evaluation.document import COSTS, TEACHER, flat
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

Flag = Literal["--fail-under", "--fail-over", "--max-drop", "--target"]
Model = Mapping[str, Any]

SPLITS = ("train", "validation", "test")
_OF_LABELS = {"micro_f1": True, "macro_f1": True, "weighted_f1": True, "samples_f1": True,
              "subset_accuracy": True, "hamming_loss": False}  # fmt: skip
# By task every figure of a split, and whether it is better the higher it is.
OF_TASK: Mapping[str, Mapping[str, bool]] = {
    SINGLE_LABEL.name: {
        "accuracy": True,
        "balanced_accuracy": True,
        "macro_f1": True,
        "micro_f1": True,
        "weighted_f1": True,
        "top_3_accuracy": True,
        "top_5_accuracy": True,
        "log_loss": False,
        "brier": False,
        "ece": False,
        "log_loss_calibrated": False,
        "brier_calibrated": False,
        "ece_calibrated": False,
        "in_scope_ece": False,
        "in_scope_ece_calibrated": False,
        "in_scope_accuracy": True,
        "in_scope_refused": False,
        "out_of_scope_recall": True,
        "out_of_scope_auroc": True,
        "accuracy_at_threshold": True,
        "in_scope_accuracy_at_threshold": True,
        "in_scope_refused_at_threshold": False,
        "out_of_scope_recall_at_threshold": True,
        "agreement": True,
        "agreement_where_it_errs": True,
        "kl": False,
        "negative_flip_rate": False,
        "positive_flip_rate": True,
    },
    MULTI_LABEL.name: {
        **_OF_LABELS,
        **{f"{name}_at_threshold": better for name, better in _OF_LABELS.items()},
        "micro_average_precision": True,
        "macro_average_precision": True,
        "log_loss": False,
        "log_loss_calibrated": False,
        "agreement": True,
        "kl": False,
        "negative_flip_rate": False,
        "positive_flip_rate": True,
    },
    REGRESSION.name: {
        "spearman": True,
        "pearson": True,
        "mae": False,
        "rmse": False,
        "fidelity_pearson": True,
        "fidelity_rmse": False,
    },
}
FIGURES: Mapping[str, bool] = {
    name: better for figures in OF_TASK.values() for name, better in figures.items()
}
_RELATIVE = "relative."
_OF_MODEL = (*COSTS, *(_RELATIVE + name for name in COSTS))


@dataclass(frozen=True)
class Gate:
    """What a figure must hold.

    Attributes:
        flag: How the figure is held to the limit.
        split: None is every split measured, or for a cost none.
        figure: One of `FIGURES`, a cost, or `relative.` and a cost.
        bound: Which end of the figure's 95 % interval has to hold it, or None for the figure.
        limit: What it is held to.
    """

    flag: Flag
    split: str | None
    figure: str
    bound: Literal["low", "high"] | None
    limit: float

    def __str__(self) -> str:
        name = ".".join(part for part in (self.split, self.figure, self.bound) if part)
        return f"{self.flag} {name}={self.limit:g}"


@dataclass(frozen=True)
class Check:
    """A gate, and what came of it for one model on one split."""

    gate: Gate
    model: str
    split: str | None
    value: float
    passed: bool

    def __str__(self) -> str:
        gate, split = self.gate, f"{self.split} " if self.split else ""
        end = {"low": "lower end of ", "high": "upper end of ", None: ""}[gate.bound]
        value, limit = _number(self.value), f"{gate.limit:g}"
        if gate.flag == "--max-drop":
            kept = "is within" if self.passed else "is more than"
            return f"{self.model}: {end}{split}{gate.figure} drops by {value}, which {kept} {limit}"
        side = {True: "under", False: "over"}[gate.flag == "--fail-under"]
        verdict = f"not {side}" if self.passed else side
        return f"{self.model}: {end}{split}{gate.figure} is {value}, {verdict} {limit}"


def parse(flag: Flag, text: str) -> Gate:
    """From `[SPLIT.]FIGURE[.low|.high]=X`.

    Raises:
        UsageError: It isn't of that form, or no figure is called so.
    """
    name, _, number = text.partition("=")
    parts = name.split(".")
    split = parts.pop(0) if parts[0] in SPLITS and len(parts) > 1 else None
    bound: Any = parts.pop() if parts[-1] in ("low", "high") and len(parts) > 1 else None
    figure = ".".join(parts)
    try:
        limit = float(number)
        well_formed = math.isfinite(limit)
    except ValueError:
        well_formed = False
    if not well_formed:
        raise UsageError(
            f"{flag} {text} is not of the form [SPLIT.]FIGURE[.low|.high]=NUMBER.",
            "Such as accuracy=0.91, accuracy.low=0.9, or test.out_of_scope_recall=0.5.",
        )
    known = tuple(FIGURES) if flag == "--max-drop" else (*FIGURES, *_OF_MODEL)
    if figure not in known:
        close = difflib.get_close_matches(figure.rpartition(".")[2], known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"There is {', '.join(known)}."
        raise UsageError(f"{flag} {text}: there is no figure {figure}.", hint)
    if figure in _OF_MODEL and (split or bound):
        raise UsageError(f"{flag} {text}: {figure} has no split and no interval.")
    if flag == "--max-drop" and not FIGURES[figure]:
        raise UsageError(
            f"{flag} {text}: {figure} is better the lower it is.", "Hold it with --fail-over."
        )
    return Gate(flag, split, figure, bound, limit)


def check(gates: Sequence[Gate], evaluation: Mapping[str, Any]) -> list[Check]:
    """Hold models to gates.

    A teacher that is measured beside another model isn't held to them, nor is the model that
    the others are compared with.

    Args:
        gates: The thresholds.
        evaluation: What `kdcli.evaluation.compare.compare` finds.

    Returns:
        A check for each gate, model and split that it is for.

    Raises:
        UsageError: A gate is on a split or figure that wasn't measured.
    """
    models = [
        model
        for model in evaluation["models"]
        if model["name"] != evaluation["against"] and model["name"].split("/")[-1] != TEACHER
    ] or evaluation["models"]
    return [one for gate in gates for one in _check(gate, models, evaluation)]


def _check(gate: Gate, models: Sequence[Model], evaluation: Mapping[str, Any]) -> Iterator[Check]:
    measured = list(evaluation["examples"])
    if gate.split and gate.split not in measured:
        raise UsageError(f"{gate}: {gate.split} wasn't measured; {', '.join(measured)} was.")
    splits = [None] if gate.figure in _OF_MODEL else [gate.split] if gate.split else measured
    none = True
    for split in splits:
        for model in models:
            value = _value(gate, model, split)
            if value is not None:
                none = False
                low = gate.flag == "--fail-under"
                passed = value >= gate.limit if low else value <= gate.limit
                yield Check(gate, model["name"], split, value, passed)
    if none:
        needs = (
            "another model to compare with: --against MODEL"
            if gate.flag == "--max-drop"
            else ("what these models and texts don't give")
        )
        raise UsageError(f"{gate}: there is no such figure here, for it needs {needs}.")


def _value(gate: Gate, model: Model, split: str | None) -> float | None:
    """What is held to the limit; None where the model has no such figure."""
    if split is None:
        costs = model.get("relative", {}) if gate.figure.startswith(_RELATIVE) else flat(model)
        return costs.get(gate.figure.removeprefix(_RELATIVE))
    found = model["splits"][split]
    if gate.flag == "--max-drop":
        against = found["against"].get(model["reference"], {"differences": {}})
        difference = against["differences"].get(gate.figure)
        # A drop is a difference below zero: its upper end is the difference's lower one.
        return None if difference is None else -difference[gate.bound or "value"]
    if gate.bound:
        ends = found["intervals"].get(gate.figure)
        return ends and ends[("low", "high").index(gate.bound)]
    return found.get(gate.figure)


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
