"""Thresholds for CI: figures that must not be missed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.errors import UsageError


@dataclass(frozen=True)
class Gate:
    """A figure's lowest value, on one split or (None) on every split measured."""

    split: str | None
    figure: str
    lowest: float


def parse(text: str) -> Gate:
    """From `[SPLIT.]FIGURE=X`.

    Raises:
        UsageError: It isn't of that form.
    """
    name, _, value = text.partition("=")
    split, _, figure = name.rpartition(".")
    try:
        return Gate(split or None, figure, float(value))
    except ValueError:
        raise UsageError(
            f"--fail-under {text} is not of the form [SPLIT.]FIGURE=NUMBER.",
            "Such as accuracy=0.91, or test.out_of_scope_recall=0.5.",
        ) from None


def missed(gates: Sequence[Gate], evaluation: Mapping[str, Any]) -> list[str]:
    """The gates that were missed, a phrase each.

    A teacher that is measured beside another model isn't held to them.

    Args:
        gates: The thresholds.
        evaluation: As `kdcli.evaluation.compare.compare` gives it.

    Raises:
        UsageError: A gate names a split or figure that wasn't measured.
    """
    models = [m for m in evaluation["models"] if m["name"] != "teacher"] or evaluation["models"]
    phrases = []
    for gate in gates:
        for split in [gate.split] if gate.split else evaluation["examples"]:
            for model in models:
                found = _figure(model, split, gate.figure)
                if not found >= gate.lowest:
                    phrases.append(
                        f"{model['name']}: {split} {gate.figure} is {found:.4f}, "
                        f"under {gate.lowest:g}"
                    )
    return phrases


def _figure(model: Mapping[str, Any], split: str, figure: str) -> float:
    splits = model["splits"]
    if split not in splits:
        raise UsageError(f"--fail-under: {split} wasn't measured; {', '.join(splits)} was.")
    if figure not in splits[split]:
        raise UsageError(
            f"--fail-under: there is no figure {figure} of {model['name']}; "
            f"there is {', '.join(splits[split])}."
        )
    return float(splits[split][figure])
