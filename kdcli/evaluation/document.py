"""The shape of `evaluation.json`, which docs/guides/figures.md describes."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

TEACHER, STUDENT, BASELINE = "teacher", "student", "baseline"
COSTS = (
    "parameters",
    "megabytes",
    "peak_megabytes",
    "flops_per_token",
    "latency_ms_p50",
    "latency_ms_p95",
    "texts_per_second",
)
# Figures that are no shares of anything, so that percent would mean nothing.
_PLAIN = frozenset({"pearson", "spearman", "mae", "rmse", "fidelity_pearson", "fidelity_rmse"})
# Too long to stand in a run's manifest as well.
_LONG = ("classes", "confusion", "reliability", "reliability_calibrated")
_NUMBERS = re.compile(r"\[\n\s+([-+\d.eE,\s]+?)\n\s*\]")


def reference(name: str, names: Sequence[str], against: str | None) -> str | None:
    """The model that one is compared with, None where it is compared with none.

    Args:
        name: The model.
        names: All that are measured, in the user's order.
        against: What the user wants the others to be compared with. Left out: the teacher of the
            same run, any other teacher, the first model.
    """
    run = name.rpartition("/")[0]
    candidates = [against] if against else [f"{run}/{TEACHER}".lstrip("/"), TEACHER, names[0]]
    found = next(one for one in candidates if one in names)
    return None if found == name else found


def is_share(figure: str) -> bool:
    """Whether a figure is a share, to be shown in percent."""
    return figure not in _PLAIN


def shown(figure: str, value: float) -> str:
    """A figure in percent, or, where it is no share, as a number."""
    return f"{100 * value:.2f} %" if is_share(figure) else f"{value:.4f}"


def flat(model: Mapping[str, Any]) -> dict[str, float]:
    """A model's costs by the names in `COSTS`; none of one that wasn't run here."""
    if "latency_ms" not in model:
        return {}
    times = {f"latency_ms_{key}": value for key, value in model["latency_ms"].items()}
    return {key: times.get(key, model.get(key, 0.0)) for key in COSTS}


def short(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The document without its long tables."""
    models = [
        {
            **model,
            "splits": {
                split: {key: value for key, value in found.items() if key not in _LONG}
                for split, found in model["splits"].items()
            },
        }
        for model in evaluation["models"]
    ]
    return {key: value for key, value in evaluation.items() if key != "apart"} | {"models": models}


def write(evaluation: Mapping[str, Any]) -> str:
    """As JSON that a person can read: a list of numbers takes one line."""
    text = json.dumps(evaluation, indent=2, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"
