"""Schema of `evaluation.json`, which docs/guides/figures.md describes."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdcli.evaluation.metrics.metric_catalog import COST_METRICS

TEACHER, STUDENT, BASELINE = "teacher", "student", "baseline"
# Left out of the run's manifest, and of baselines, for their length.
LONG_TABLES = ("classes", "confusion", "reliability", "reliability_calibrated")
_NUMBER_LIST = re.compile(r"\[\n\s+([-+\d.eE,\s]+?)\n\s*\]")


def exported_model_suffix(export: Mapping[str, Any]) -> str:
    """Return the suffix of an exported model's name, by `format` and `precision` of an export."""
    precision = export["precision"]
    if export.get("format") == "openvino":
        return "-openvino" if precision == "float32" else f"-openvino-{precision}"
    return "-onnx" if precision == "float32" else f"-{precision}"


def reference_for_model(
    model_name: str,
    model_names: Sequence[str],
    preferred_reference: str | None,
    exported_from: Mapping[str, str] | None = None,
) -> str | None:
    """Return the reference that a model is compared with; None for the reference itself.

    Args:
        model_name: The model.
        model_names: All models, in the user's order.
        preferred_reference: The reference that the user names. Default: of an exported model, the
            one that was exported; of others, the teacher of the same run, another teacher, or the
            first model.
        exported_from: The source of each exported model.
    """
    run = model_name.rpartition("/")[0]
    candidates = (
        [preferred_reference]
        if preferred_reference
        else [
            (exported_from or {}).get(model_name),
            f"{run}/{TEACHER}".lstrip("/"),
            TEACHER,
            model_names[0],
        ]
    )
    reference = next(name for name in candidates if name in model_names)
    return None if reference == model_name else reference


def flatten_costs(model_result: Mapping[str, Any]) -> dict[str, float]:
    """Return the costs of a model by the names in `COST_METRICS`, as far as it has them."""
    if "latency_ms" not in model_result:
        return {}
    times = {f"latency_ms_{key}": value for key, value in model_result["latency_ms"].items()}
    costs = {**model_result, **times}
    return {key: costs[key] for key in COST_METRICS if key in costs}


def drop_long_tables(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evaluation without its long tables."""
    models = [
        {
            **model,
            "splits": {
                split: {key: value for key, value in metrics.items() if key not in LONG_TABLES}
                for split, metrics in model["splits"].items()
            },
        }
        for model in evaluation["models"]
    ]
    return {key: value for key, value in evaluation.items() if key != "apart"} | {"models": models}


def format_evaluation_json(evaluation: Mapping[str, Any]) -> str:
    """Format as indented JSON, with lists of numbers on one line."""
    text = json.dumps(evaluation, indent=2, ensure_ascii=False, allow_nan=False)
    return _NUMBER_LIST.sub(lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"
