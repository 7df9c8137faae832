"""Thresholds for CI: figures that must not be missed."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kdcli.errors import UsageError
from kdcli.evaluation.metrics.metric_catalog import COST_METRICS, HIGHER_IS_BETTER
from kdcli.evaluation.output.evaluation_json import TEACHER, flatten_costs

GateFlag = Literal["--fail-under", "--fail-over", "--max-drop", "--target"]
ModelResult = Mapping[str, Any]

SPLITS = ("train", "validation", "test")
_RELATIVE_PREFIX = "relative."
_COST_METRICS = (*COST_METRICS, *(_RELATIVE_PREFIX + name for name in COST_METRICS))


@dataclass(frozen=True)
class QualityGate:
    """What a figure must hold.

    Attributes:
        flag: How the figure is held to the limit.
        split: None is every split measured, or for a cost none.
        metric: One of `FIGURES`, a cost, or `relative.` and a cost.
        interval_end: Which end of the figure's 95 % interval has to hold it, or None for the figure.
        limit: What it is held to.
    """

    flag: GateFlag
    split: str | None
    metric: str
    interval_end: Literal["low", "high"] | None
    limit: float

    def __str__(self) -> str:
        name = ".".join(part for part in (self.split, self.metric, self.interval_end) if part)
        return f"{self.flag} {name}={self.limit:g}"


@dataclass(frozen=True)
class GateResult:
    """A gate, and what came of it for one model on one split."""

    gate: QualityGate
    model: str
    split: str | None
    value: float
    passed: bool

    def __str__(self) -> str:
        gate, split = self.gate, f"{self.split} " if self.split else ""
        end = {"low": "lower end of ", "high": "upper end of ", None: ""}[gate.interval_end]
        value, limit = _format_value(self.value), f"{gate.limit:g}"
        if gate.flag == "--max-drop":
            kept = "is within" if self.passed else "is more than"
            return f"{self.model}: {end}{split}{gate.metric} drops by {value}, which {kept} {limit}"
        side = {True: "under", False: "over"}[gate.flag == "--fail-under"]
        verdict = f"not {side}" if self.passed else side
        return f"{self.model}: {end}{split}{gate.metric} is {value}, {verdict} {limit}"


def parse_quality_gate(flag: GateFlag, text: str) -> QualityGate:
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
    known = tuple(HIGHER_IS_BETTER) if flag == "--max-drop" else (*HIGHER_IS_BETTER, *_COST_METRICS)
    if figure not in known:
        close = difflib.get_close_matches(figure.rpartition(".")[2], known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"There is {', '.join(known)}."
        raise UsageError(f"{flag} {text}: there is no figure {figure}.", hint)
    if figure in _COST_METRICS and (split or bound):
        raise UsageError(f"{flag} {text}: {figure} has no split and no interval.")
    if flag == "--max-drop" and not HIGHER_IS_BETTER[figure]:
        raise UsageError(
            f"{flag} {text}: {figure} is better the lower it is.", "Hold it with --fail-over."
        )
    return QualityGate(flag, split, figure, bound, limit)


def check_quality_gates(
    gates: Sequence[QualityGate], evaluation: Mapping[str, Any]
) -> list[GateResult]:
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
    return [one for gate in gates for one in _check_gate(gate, models, evaluation)]


def _check_gate(
    gate: QualityGate, models: Sequence[ModelResult], evaluation: Mapping[str, Any]
) -> Iterator[GateResult]:
    measured = list(evaluation["examples"])
    if gate.split and gate.split not in measured:
        raise UsageError(f"{gate}: {gate.split} wasn't measured; {', '.join(measured)} was.")
    splits = [None] if gate.metric in _COST_METRICS else [gate.split] if gate.split else measured
    none = True
    for split in splits:
        for model in models:
            value = _gated_value(gate, model, split)
            if value is not None:
                none = False
                low = gate.flag == "--fail-under"
                passed = value >= gate.limit if low else value <= gate.limit
                yield GateResult(gate, model["name"], split, value, passed)
    if none:
        needs = (
            "another model to compare with: --against MODEL"
            if gate.flag == "--max-drop"
            else ("what these models and texts don't give")
        )
        raise UsageError(f"{gate}: there is no such figure here, for it needs {needs}.")


def _gated_value(gate: QualityGate, model: ModelResult, split: str | None) -> float | None:
    """What is held to the limit; None where the model has no such figure."""
    if split is None:
        costs = (
            model.get("relative", {})
            if gate.metric.startswith(_RELATIVE_PREFIX)
            else flatten_costs(model)
        )
        return costs.get(gate.metric.removeprefix(_RELATIVE_PREFIX))
    found = model["splits"][split]
    if gate.flag == "--max-drop":
        against = found["against"].get(model["reference"], {"differences": {}})
        difference = against["differences"].get(gate.metric)
        # A drop is a difference below zero: its upper end is the difference's lower one.
        return None if difference is None else -difference[gate.interval_end or "value"]
    if gate.interval_end:
        ends = found["intervals"].get(gate.metric)
        return ends and ends[("low", "high").index(gate.interval_end)]
    return found.get(gate.metric)


def _format_value(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
