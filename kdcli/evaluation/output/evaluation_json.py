"""The shape of `evaluation.json`, which docs/guides/figures.md describes."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdcli.evaluation.metrics.metric_catalog import COST_METRICS

TEACHER, STUDENT, BASELINE = "teacher", "student", "baseline"
# Too long to stand in a run's manifest as well.
_LONG_TABLES = ("classes", "confusion", "reliability", "reliability_calibrated")
_NUMBER_LIST = re.compile(r"\[\n\s+([-+\d.eE,\s]+?)\n\s*\]")


def reference_model_name(
    model_name: str, model_names: Sequence[str], preferred_reference: str | None
) -> str | None:
    """The model that one is compared with, None where it is compared with none.

    Args:
        model_name: The model.
        model_names: All that are measured, in the user's order.
        preferred_reference: What the user wants the others to be compared with. Left out: the teacher of the
            same run, any other teacher, the first model.
    """
    run = model_name.rpartition("/")[0]
    candidates = (
        [preferred_reference]
        if preferred_reference
        else [f"{run}/{TEACHER}".lstrip("/"), TEACHER, model_names[0]]
    )
    found = next(one for one in candidates if one in model_names)
    return None if found == model_name else found


def flatten_costs(model_result: Mapping[str, Any]) -> dict[str, float]:
    """A model's costs by the names in `COSTS`; none of one that wasn't run here."""
    if "latency_ms" not in model_result:
        return {}
    times = {f"latency_ms_{key}": value for key, value in model_result["latency_ms"].items()}
    return {key: times.get(key, model_result.get(key, 0.0)) for key in COST_METRICS}


def drop_long_tables(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The document without its long tables."""
    models = [
        {
            **model,
            "splits": {
                split: {key: value for key, value in found.items() if key not in _LONG_TABLES}
                for split, found in model["splits"].items()
            },
        }
        for model in evaluation["models"]
    ]
    return {key: value for key, value in evaluation.items() if key != "apart"} | {"models": models}


def format_evaluation_json(evaluation: Mapping[str, Any]) -> str:
    """As JSON that a person can read: a list of numbers takes one line."""
    text = json.dumps(evaluation, indent=2, ensure_ascii=False, allow_nan=False)
    return _NUMBER_LIST.sub(lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"
