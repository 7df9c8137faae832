"""Main metrics, differences and costs as table rows for the model card and the HTML report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.evaluation.metrics.metric_catalog import (
    HIGHER_IS_BETTER,
    format_difference,
    format_metric,
)
from kdcli.evaluation.output.evaluation_schema import STUDENT, flatten_costs
from kdcli.report.verdict import describe_size_ratio, describe_speed_ratio
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS

_METRIC_TITLES = {
    SINGLE_LABEL.name: {
        "accuracy": "Accuracy",
        "macro_f1": "Macro F1",
        "in_scope_accuracy": "In-scope accuracy",
        "out_of_scope_recall": "Out-of-scope recall",
        "accuracy_at_threshold": "Accuracy, with out-of-scope threshold",
        "in_scope_accuracy_at_threshold": "In-scope accuracy, with out-of-scope threshold",
        "out_of_scope_recall_at_threshold": "Out-of-scope recall, with out-of-scope threshold",
        "in_scope_refused_at_threshold": "In-scope texts refused, with out-of-scope threshold",
        "out_of_scope_auroc": "Out-of-scope AUROC",
        "ece": "Calibration error (ECE)",
        "ece_calibrated": "Calibration error (ECE), calibrated",
        "agreement": "Agreement with the teacher",
    },
    MULTI_LABEL.name: {
        "micro_f1": "Micro F1",
        "macro_f1": "Macro F1",
        "samples_f1": "Samples F1",
        "micro_f1_at_threshold": "Micro F1, tuned thresholds",
        "macro_f1_at_threshold": "Macro F1, tuned thresholds",
        "samples_f1_at_threshold": "Samples F1, tuned thresholds",
        "micro_average_precision": "Average precision, micro",
        "macro_average_precision": "Average precision, macro",
        "subset_accuracy": "Subset accuracy",
        "hamming_loss": "Hamming loss",
        "agreement": "Agreement with the teacher, per label",
    },
    REGRESSION.name: {
        "spearman": "Spearman's correlation",
        "pearson": "Pearson's correlation",
        "mae": "Mean absolute error",
        "rmse": "Root mean squared error",
        "fidelity_pearson": "Pearson's correlation with the teacher",
        "fidelity_rmse": "Root mean squared difference from the teacher",
    },
}


@dataclass(frozen=True)
class MetricCell:
    """A formatted value; `noise` marks a difference that is not significant."""

    value: str
    interval: str = ""
    noise: bool = False


@dataclass(frozen=True)
class MetricRow:
    """One metric of all models, and the student's differences from each of the others."""

    title: str
    cells: Sequence[MetricCell | None]
    gaps: Sequence[MetricCell | None]


def reference_model_names(evaluation: Mapping[str, Any]) -> list[str]:
    """Return the names of the reference models: those that the student is compared with."""
    return [
        model["name"]
        for model in evaluation["models"]
        if model["name"] != STUDENT and "exported_from" not in model
    ]


def source_split_name_suffix(evaluation: Mapping[str, Any], split: str) -> str:
    """Return a split's name in its source as a suffix, " (name)"; "" if it is the same."""
    source = evaluation.get("sources", {}).get(split, split)
    return "" if source == split else f" ({source})"


def metric_rows(evaluation: Mapping[str, Any], split: str) -> list[MetricRow]:
    """Return the metrics of a split that at least one model has."""
    metrics_by_model = {model["name"]: model["splits"][split] for model in evaluation["models"]}
    exported = any("exported_from" in model for model in evaluation["models"])
    rows = [
        MetricRow(
            f"{title} (exported: the student)" if exported and "the teacher" in title else title,
            [_metric_cell(metrics, key) for metrics in metrics_by_model.values()],
            [
                _difference_cell(metrics_by_model[STUDENT], name, key)
                for name in reference_model_names(evaluation)
            ],
        )
        for key, title in _METRIC_TITLES[evaluation["task"]].items()
        if any(key in metrics for metrics in metrics_by_model.values())
    ]
    task = TASKS[evaluation["task"]]
    unrepeated = [
        metrics.get("unrepeated", {}).get(task.primary_metric)
        for metrics in metrics_by_model.values()
    ]
    if any(value is not None for value in unrepeated):
        cells = [
            v if v is None else MetricCell(format_metric(task.primary_metric, v))
            for v in unrepeated
        ]
        rows.insert(1, MetricRow(f"{rows[0].title}, without texts that occur in train", cells, []))
    return rows


def cost_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, list[MetricCell]]]:
    """Return size and speed: a title, and a cell for each model."""
    rows = {
        "parameters": ("Parameters", 1e-6, ".1f", " M"),
        "megabytes": ("Weights", 1, ".1f", " MB"),
        "peak_megabytes": ("Peak memory, batch of 32", 1, ".1f", " MB"),
        "flops_per_token": ("FLOPs per token", 1e-6, ".1f", " M"),
        "latency_ms_p50": ("Latency, median", 1, ".1f", " ms"),
        "latency_ms_p95": ("Latency, 95th percentile", 1, ".1f", " ms"),
        "texts_per_second": ("Texts per second, batch of 32", 1, ",.0f", ""),
    }
    return [
        (title, [_cost_cell(model, key, scale, form, unit) for model in evaluation["models"]])
        for key, (title, scale, form, unit) in rows.items()
    ]


def _cost_cell(
    model_result: Mapping[str, Any], metric: str, scale: float, form: str, unit: str
) -> MetricCell:
    """Format a cost, and its ratio to the cost of the reference model."""
    ratio = model_result.get("relative", {}).get(metric)
    times = ""
    if ratio is not None and metric.startswith("latency"):
        times = describe_speed_ratio(1 / ratio)
    elif ratio is not None:
        describe = describe_speed_ratio if metric == "texts_per_second" else describe_size_ratio
        times = describe(ratio)
    cost = flatten_costs(model_result)
    return MetricCell(f"{cost[metric] * scale:{form}}{unit}" if metric in cost else "", times)


def all_metric_rows(evaluation: Mapping[str, Any], split: str) -> list[tuple[str, list[str]]]:
    """Return all metrics of a split by their names in `evaluation.json`."""
    results = [model["splits"][split] for model in evaluation["models"]]
    return [
        (name, [format_number(metrics[name]) if name in metrics else "" for metrics in results])
        for name in HIGHER_IS_BETTER
        if any(name in metrics for metrics in results)
    ]


def format_percent(value: float) -> str:
    """Format a fraction in percent, with two decimals."""
    return f"{100 * value:.2f} %"


def format_number(value: float) -> str:
    """Format a number with four decimals, or six digits if it is below 0.001."""
    return f"{round(value, 4):g}" if abs(value) >= 1e-3 or not value else f"{value:g}"


def format_duration(seconds: float) -> str:
    """Format a duration in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "under 1 s"


def _metric_cell(metrics: Mapping[str, Any], metric: str) -> MetricCell | None:
    if metric not in metrics:
        return None
    bounds = metrics["intervals"].get(metric)
    low, high = (format_metric(metric, bound).removesuffix(" %") for bound in bounds or (0, 0))
    return MetricCell(format_metric(metric, metrics[metric]), f"{low} to {high}" if bounds else "")


def _difference_cell(
    student: Mapping[str, Any], other_model: str, metric: str
) -> MetricCell | None:
    gap = student["against"][other_model]["differences"].get(metric)
    if gap is None:
        return None
    value, low, high = (
        format_difference(metric, gap[end]).replace("-", "\N{MINUS SIGN}")
        for end in ("value", "low", "high")
    )
    return MetricCell(value, f"{low} to {high}", gap["noise"])
