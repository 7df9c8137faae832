"""The figures that decide, in a table for 80 columns and in words."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from kdcli.evaluation.metrics.metric_catalog import format_metric, is_fraction
from kdcli.evaluation.output.evaluation_json import BASELINE, STUDENT, TEACHER, flatten_costs
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, Task

ModelResult = Mapping[str, Any]

# By task the figures below the headline.
_METRIC_TITLES = {
    SINGLE_LABEL.name: {
        "macro_f1": "macro F1",
        "in_scope_accuracy": "in-scope accuracy",
        "out_of_scope_recall": "out-of-scope recall",
        "agreement": "agreement",
    },
    MULTI_LABEL.name: {
        "macro_f1": "macro F1",
        "samples_f1": "samples F1",
        "micro_average_precision": "average precision",
        "subset_accuracy": "all labels right",
        "agreement": "agreement",
    },
    REGRESSION.name: {
        "pearson": "Pearson",
        "mae": "mean abs. error",
        "rmse": "root mean sq. error",
        "fidelity_pearson": "Pearson, teacher",
    },
}

_PSEUDO_LABEL_REMARK = (
    "The texts have no labels: what the teacher says stands for them. Its own {0} says nothing, "
    "and the others' is their agreement with it."
)
_COST_FORMATS = {
    "parameters": ("parameters", 1e-6, "{:.2f} M"),
    "megabytes": ("weights", 1, "{:.1f} MB"),
    "latency_ms_p50": ("one text, median", 1, "{:.1f} ms"),
    "latency_ms_p95": ("one text, 95 % under", 1, "{:.1f} ms"),
    "texts_per_second": ("texts a second", 1, "{:,.0f}"),
}


def comparison_table_rows(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """The table: what a row is of, then a cell for each model.

    Args:
        evaluation: As `evaluation.json` holds it, or its short form.
    """
    models, task = evaluation["models"], TASKS[evaluation["task"]]
    found = []
    for split, texts in evaluation["examples"].items():
        found.append([f"{split}, {texts:,} texts", *("" for _ in models)])
        found += [row for row in _split_rows(split, models, task) if any(row[1:])]
    found.append(["cost", *("" for _ in models)])
    costs = [flatten_costs(model) for model in models]
    found += [
        [f"  {title}", *(shape.format(cost[key] * scale) if cost else "" for cost in costs)]
        for key, (title, scale, shape) in _COST_FORMATS.items()
    ]
    speed = ["  times as fast", *map(_format_speedup, models)]
    return [*found, speed] if any(speed[1:]) else found


def _split_rows(split: str, models: list[ModelResult], task: Task) -> list[list[str]]:
    figures, headline = [m["splits"][split] for m in models], task.primary_metric
    refusing = f"{headline}_at_threshold"
    return [
        [f"  {task.primary_metric_title}", *(_format_with_interval(f, headline) for f in figures)],
        ["  difference", *(_format_difference(m, split, headline) for m in models)],
        [
            "  without repeats",
            *(_format_metric_if_present(headline, f.get("unrepeated", {})) for f in figures),
        ],
        *(
            [f"  {title}", *(_format_metric_if_present(key, f) for f in figures)]
            for key, title in _METRIC_TITLES[task.name].items()
        ),
        ["  calibration error", *map(_format_calibration_error, figures)],
        ["  with the threshold", *(_format_with_interval(f, refusing) for f in figures)],
        [
            "    recall",
            *(_format_metric_if_present("out_of_scope_recall_at_threshold", f) for f in figures),
        ],
    ]


def comparison_remarks(evaluation: Mapping[str, Any]) -> list[str]:
    """What the figures say, in words: which differences are more than noise, and the thresholds."""
    models, task = evaluation["models"], TASKS[evaluation["task"]]
    compared = [model for model in models if model["reference"]]
    return [
        *(
            [_PSEUDO_LABEL_REMARK.format(task.primary_metric_title)]
            if evaluation["labels_from"] == TEACHER
            else []
        ),
        *(
            _describe_difference(model, split, task)
            for split in evaluation["examples"]
            for model in compared
        ),
        *_warn_if_baseline_beats_student(models, evaluation["examples"], task),
        *(
            _describe_out_of_scope_threshold(model)
            for model in models
            if _calibration_value(model, "operating_point")
        ),
        *(
            _describe_label_thresholds(model)
            for model in models
            if _calibration_value(model, "thresholds")
        ),
    ]


def _describe_difference(model: ModelResult, split: str, task: Task) -> str:
    name, other = model["name"], model["reference"]
    against = model["splits"][split]["against"][other]
    gap = against["differences"][task.primary_metric]
    value, low, high = (
        _format_signed(task.primary_metric, gap[key]) for key in ("value", "low", "high")
    )
    in_points = (
        " points" if is_fraction(task.primary_metric) else f" in {task.primary_metric_title}"
    )
    tested = f"95 % interval {low} to {high}"
    if gap["noise"]:
        verdict = f"{name} and {other} differ within the noise, by {value}{in_points}"
    else:
        side = "above" if gap["value"] > 0 else "below"
        verdict = f"{name} is {value.lstrip('+-')}{in_points} {side} {other}"
    if "p" not in against:
        return f"{split}: {verdict} ({tested})."
    p = "p < 0.001" if against["p"] < 0.001 else f"p = {against['p']:.2g}"
    flips = f"breaks {against['broken']:,} texts and repairs {against['repaired']:,}"
    if task is MULTI_LABEL:
        return (
            f"{split}: {verdict} ({tested}). Right being all of a text's labels, it {flips} "
            f"(McNemar {p})."
        )
    return f"{split}: {verdict} ({tested}, McNemar {p}). It {flips}."


def _warn_if_baseline_beats_student(
    models: list[ModelResult], splits: Iterable[str], task: Task
) -> list[str]:
    """That the labels alone taught more than the teacher, where it is more than noise."""
    students = [model for model in models if model["name"] == STUDENT]
    for split, student in product(splits, students):
        gap = _find_difference(student, split, BASELINE, task.primary_metric)
        if gap is not None and gap["value"] < 0 and not gap["noise"]:
            below = _format_signed(task.primary_metric, -gap["value"]).lstrip("+")
            return [
                f"{split}: {task.primary_metric_title} of the student is {below} below the baseline's, which "
                "learnt from the labels alone: this teacher holds it back. Fine-tune it longer, "
                "take a better one, or give its losses less weight."
            ]
    return []


def _describe_out_of_scope_threshold(model: ModelResult) -> str:
    point = _calibration_value(model, "operating_point")
    return (
        f"{model['name']}'s threshold: {point['label']} where the {point['score']} score is below "
        f"{point['threshold']:.4g}. It {_describe_calibration_source(model)}, at {100 * point['refuse_at_most']:g} % of "
        "in-scope texts refused."
    )


def _describe_label_thresholds(model: ModelResult) -> str:
    found = _calibration_value(model, "thresholds").values()
    low, high = min(found), max(found)
    which = f"of {low:.3f}" if low == high else f"of {low:.3f} to {high:.3f}, each its own,"
    return (
        f"{model['name']}'s threshold: a label is given from a probability {which} on. "
        f"It {_describe_calibration_source(model)}, for the best F1."
    )


def _describe_calibration_source(model: ModelResult) -> str:
    of_model = model["settings"]["from"] == "model"
    return "comes with the model" if of_model else "was chosen on validation"


def _calibration_value(model: ModelResult, key: str) -> Any:
    return (model["settings"] or {}).get(key)


def _format_metric_if_present(metric: str, metrics: Mapping[str, Any]) -> str:
    return format_metric(metric, metrics[metric]) if metric in metrics else ""


def _format_with_interval(metrics: Mapping[str, Any], metric: str) -> str:
    if metric not in metrics:
        return ""
    if metric not in metrics["intervals"]:
        return format_metric(metric, metrics[metric])
    low, high = metrics["intervals"][metric]
    if not is_fraction(metric):
        return f"{metrics[metric]:.4f} ± {(high - low) / 2:.4f}"
    return f"{100 * metrics[metric]:.2f} ± {50 * (high - low):.2f} %"


def _format_difference(model: ModelResult, split: str, headline: str) -> str:
    gap = _find_difference(model, split, model["reference"], headline)
    if gap is None:
        return ""
    return f"{_format_signed(headline, gap['value'])}{', noise' if gap['noise'] else ''}"


def _find_difference(model: ModelResult, split: str, other_model: str | None, metric: str) -> Any:
    """The difference from another model, None where the two aren't compared."""
    against = model["splits"][split]["against"].get(other_model, {})
    return against.get("differences", {}).get(metric)


def _format_calibration_error(metrics: Mapping[str, Any]) -> str:
    if "ece" not in metrics:
        return ""
    before, after = metrics["ece"], metrics.get("ece_calibrated")
    return f"{100 * before:.1f} %" if after is None else f"{100 * before:.1f} → {100 * after:.1f} %"


def _format_speedup(model: ModelResult) -> str:
    ratio = model.get("relative", {}).get("latency_ms_p50")
    return f"{1 / ratio:.2f}" if ratio else ""


def _format_signed(metric: str, value: float) -> str:
    return f"{100 * value:+.2f}" if is_fraction(metric) else f"{value:+.4f}"
