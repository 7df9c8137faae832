"""Quality gates: limits on metrics and costs that fail a CI job."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kdcli.errors import UsageError
from kdcli.evaluation.metrics.metric_catalog import (
    COST_METRICS,
    HIGHER_IS_BETTER,
    is_bounded_by_one,
)
from kdcli.evaluation.output.evaluation_schema import TEACHER, flatten_costs

GateFlag = Literal["--fail-under", "--fail-over", "--max-drop", "--target"]
ModelResult = Mapping[str, Any]

SPLITS = ("train", "validation", "test")
_RELATIVE_PREFIX = "relative."
_COST_METRICS = (*COST_METRICS, *(_RELATIVE_PREFIX + name for name in COST_METRICS))


@dataclass(frozen=True)
class QualityGate:
    """Limit on a metric or cost.

    Attributes:
        flag: The option that sets it, which says how the value is compared.
        split: A split; None for every split, and for costs.
        metric: A metric in `HIGHER_IS_BETTER`, a cost, or `relative.` and a cost.
        interval_end: The end of the 95 % interval to compare; None for the value itself.
        limit: The limit.
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
    """Result of a gate for one model on one split."""

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
            verdict = "not more than" if self.passed else "more than"
            return f"{self.model}: {end}{split}{gate.metric} drops by {value}, {verdict} {limit}"
        side = "below" if gate.flag == "--fail-under" else "above"
        verdict = f"not {side}" if self.passed else side
        return f"{self.model}: {end}{split}{gate.metric} is {value}, {verdict} {limit}"


def parse_quality_gate(flag: GateFlag, text: str) -> QualityGate:
    """Parse `[SPLIT.]METRIC[.low|.high]=NUMBER`.

    Raises:
        UsageError: The form is wrong, or there is no such metric.
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
            f"{flag} {text}: expected [SPLIT.]METRIC[.low|.high]=NUMBER.",
            "For example accuracy=0.91, accuracy.low=0.9, or test.out_of_scope_recall=0.5.",
        )
    known = tuple(HIGHER_IS_BETTER) if flag == "--max-drop" else (*HIGHER_IS_BETTER, *_COST_METRICS)
    if figure not in known:
        close = difflib.get_close_matches(figure.rpartition(".")[2], known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Known metrics: {', '.join(known)}."
        raise UsageError(f"{flag} {text}: unknown metric {figure}.", hint)
    if figure in _COST_METRICS and (split or bound):
        raise UsageError(
            f"{flag} {text}: costs have no split and no interval.", f"Use {figure}={number}."
        )
    if abs(limit) > 1 and is_bounded_by_one(figure):
        percent = f"Write {figure}={limit / 100:g}." if abs(limit) <= 100 else ""
        raise UsageError(f"{flag} {text}: {figure} is between 0 and 1.", percent)
    if flag == "--max-drop" and not HIGHER_IS_BETTER[figure]:
        raise UsageError(
            f"{flag} {text}: lower values of {figure} are better.", "Use --fail-over instead."
        )
    return QualityGate(flag, split, figure, bound, limit)


def check_quality_gates(
    gates: Sequence[QualityGate], evaluation: Mapping[str, Any]
) -> list[GateResult]:
    """Check models against gates.

    Teachers that are evaluated together with other models are exempt, and so is the model that the
    others are compared with.

    Args:
        gates: The gates.
        evaluation: The content of `evaluation.json`.

    Returns:
        A result for each gate, model and split.

    Raises:
        UsageError: A gate is on a split or metric that was not evaluated.
    """
    models = [
        model
        for model in evaluation["models"]
        if model["name"] != evaluation["against"] and model["name"].split("/")[-1] != TEACHER
    ] or evaluation["models"]
    return [result for gate in gates for result in _check_gate(gate, models, evaluation)]


def _check_gate(
    gate: QualityGate, models: Sequence[ModelResult], evaluation: Mapping[str, Any]
) -> Iterator[GateResult]:
    measured = list(evaluation["examples"])
    if gate.split and gate.split not in measured:
        raise UsageError(
            f"{gate}: split {gate.split} was not evaluated.", f"Evaluated: {', '.join(measured)}."
        )
    splits = [None] if gate.metric in _COST_METRICS else [gate.split] if gate.split else measured
    is_checked = False
    for split in splits:
        for model in models:
            value = _gated_value(gate, model, split)
            if value is not None:
                is_checked = True
                is_minimum = gate.flag == "--fail-under"
                passed = value >= gate.limit if is_minimum else value <= gate.limit
                yield GateResult(gate, model["name"], split, value, passed)
    if not is_checked:
        raise UsageError(
            f"{gate}: no model has this metric on these texts.",
            "Name a model to compare with: --reference-model MODEL."
            if gate.flag == "--max-drop"
            else "",
        )


def _gated_value(gate: QualityGate, model: ModelResult, split: str | None) -> float | None:
    """Return the value to compare with the limit; None if the model does not have it."""
    if split is None:
        costs = (
            model.get("relative", {})
            if gate.metric.startswith(_RELATIVE_PREFIX)
            else flatten_costs(model)
        )
        return costs.get(gate.metric.removeprefix(_RELATIVE_PREFIX))
    metrics = model["splits"][split]
    if gate.flag == "--max-drop":
        pair = metrics["against"].get(model["reference"], {"differences": {}})
        difference = pair["differences"].get(gate.metric)
        # A drop is a negative difference. --max-drop names the ends of the difference's interval.
        return None if difference is None else -difference[gate.interval_end or "value"]
    if gate.interval_end:
        ends = metrics["intervals"].get(gate.metric)
        return ends and ends[("low", "high").index(gate.interval_end)]
    return metrics.get(gate.metric)


def _format_value(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
