"""The figures that decide and how far they can be trusted, as rows for card and page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.evaluation.metrics.metric_catalog import HIGHER_IS_BETTER, is_fraction
from kdcli.evaluation.metrics.metric_catalog import format_metric as in_words
from kdcli.evaluation.output.evaluation_json import flatten_costs
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS

STUDENT = "student"
_METRIC_TITLES = {
    SINGLE_LABEL.name: {
        "accuracy": "Accuracy",
        "macro_f1": "Macro F1",
        "in_scope_accuracy": "In-scope accuracy",
        "out_of_scope_recall": "Out-of-scope recall",
        "accuracy_at_threshold": "Accuracy, with threshold",
        "in_scope_accuracy_at_threshold": "In-scope accuracy, with threshold",
        "out_of_scope_recall_at_threshold": "Out-of-scope recall, with threshold",
        "in_scope_refused_at_threshold": "In-scope texts refused, with threshold",
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
    """A figure as it is shown; for a difference, whether it is within the noise."""

    value: str
    interval: str = ""
    noise: bool = False


@dataclass(frozen=True)
class MetricRow:
    """A figure of all models, and by how much the student's differs from each of the others'."""

    title: str
    cells: Sequence[MetricCell | None]
    gaps: Sequence[MetricCell | None]


def compared_model_names(evaluation: Mapping[str, Any]) -> list[str]:
    """The models that the student is compared with."""
    return [model["name"] for model in evaluation["models"] if model["name"] != STUDENT]


def split_source_suffix(evaluation: Mapping[str, Any], split: str) -> str:
    """What the data set calls a split, in parentheses; nothing where it calls it the same."""
    own = evaluation.get("sources", {}).get(split, split)
    return "" if own == split else f" ({own})"


def metric_rows(evaluation: Mapping[str, Any], split: str) -> list[MetricRow]:
    """What was measured on a split; a figure that no model has isn't there."""
    figures = {model["name"]: model["splits"][split] for model in evaluation["models"]}
    rows = [
        MetricRow(
            title,
            [_metric_cell(found, key) for found in figures.values()],
            [
                _difference_cell(figures[STUDENT], name, key)
                for name in compared_model_names(evaluation)
            ],
        )
        for key, title in _METRIC_TITLES[evaluation["task"]].items()
        if any(key in found for found in figures.values())
    ]
    task = TASKS[evaluation["task"]]
    unrepeated = [
        found.get("unrepeated", {}).get(task.primary_metric) for found in figures.values()
    ]
    if any(value is not None for value in unrepeated):
        cells = [
            v if v is None else MetricCell(in_words(task.primary_metric, v)) for v in unrepeated
        ]
        rows.insert(1, MetricRow(f"{rows[0].title}, without texts that occur in train", cells, []))
    return rows


def cost_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, list[MetricCell]]]:
    """What each model takes: a title, and a cell for each model."""
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
    """What a model takes, and below it as a multiple of what its reference takes."""
    ratio = model_result.get("relative", {}).get(metric)
    times = "" if ratio is None else f"{ratio:.2f} \N{MULTIPLICATION SIGN}"
    cost = flatten_costs(model_result)
    return MetricCell(f"{cost[metric] * scale:{form}}{unit}" if cost else "", times)


def all_metric_rows(evaluation: Mapping[str, Any], split: str) -> list[tuple[str, list[str]]]:
    """All figures of a split by the names that gates know them by, and a cell for each model."""
    found = [model["splits"][split] for model in evaluation["models"]]
    return [
        (name, [format_number(figures[name]) if name in figures else "" for figures in found])
        for name in HIGHER_IS_BETTER
        if any(name in figures for figures in found)
    ]


def format_percent(value: float) -> str:
    """A share in percent, to two places."""
    return f"{100 * value:.2f} %"


def format_metric_difference(metric: str, difference: float) -> str:
    """A difference of a figure with its sign, of shares in percentage points."""
    shown = f"{100 * difference:+.2f}" if is_fraction(metric) else f"{difference:+.4f}"
    return shown.replace("-", "\N{MINUS SIGN}")


def format_number(value: float) -> str:
    """To four places, or as many digits where it is tiny."""
    return f"{round(value, 4):g}" if abs(value) >= 1e-3 or not value else f"{value:g}"


def format_duration(seconds: float) -> str:
    """In words, to the second."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "under 1 s"


def _metric_cell(metrics: Mapping[str, Any], metric: str) -> MetricCell | None:
    if metric not in metrics:
        return None
    bounds = metrics["intervals"].get(metric)
    low, high = (in_words(metric, bound).removesuffix(" %") for bound in bounds or (0, 0))
    return MetricCell(in_words(metric, metrics[metric]), f"{low} to {high}" if bounds else "")


def _difference_cell(
    student: Mapping[str, Any], other_model: str, metric: str
) -> MetricCell | None:
    gap = student["against"][other_model]["differences"].get(metric)
    if gap is None:
        return None
    value, low, high = (
        format_metric_difference(metric, gap[end]) for end in ("value", "low", "high")
    )
    return MetricCell(value, f"{low} to {high}", gap["noise"])
