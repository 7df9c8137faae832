"""The figures that decide and how far they can be trusted, as rows for card and page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.evaluation.document import flat, is_share
from kdcli.evaluation.document import shown as in_words
from kdcli.evaluation.gates import FIGURES
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS

STUDENT = "student"
_SHOWN = {
    SINGLE_LABEL.name: {
        "accuracy": "Accuracy",
        "macro_f1": "Macro F1",
        "in_scope_accuracy": "In-scope accuracy",
        "out_of_scope_recall": "Out-of-scope recall",
        "accuracy_at_threshold": "Accuracy, refusing",
        "in_scope_accuracy_at_threshold": "In-scope accuracy, refusing",
        "out_of_scope_recall_at_threshold": "Out-of-scope recall, refusing",
        "in_scope_refused_at_threshold": "In-scope texts refused",
        "out_of_scope_auroc": "Out-of-scope AUROC",
        "ece": "Calibration error",
        "ece_calibrated": "Calibration error, with its temperature",
        "agreement": "Agreement with the teacher",
    },
    MULTI_LABEL.name: {
        "micro_f1": "Micro F1",
        "macro_f1": "Macro F1",
        "samples_f1": "Samples F1",
        "micro_f1_at_threshold": "Micro F1, by its thresholds",
        "macro_f1_at_threshold": "Macro F1, by its thresholds",
        "samples_f1_at_threshold": "Samples F1, by its thresholds",
        "micro_average_precision": "Average precision, micro",
        "macro_average_precision": "Average precision, macro",
        "subset_accuracy": "Texts with all labels right",
        "hamming_loss": "Labels wrongly given or withheld",
        "agreement": "Agreement with the teacher, of each label",
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
class Cell:
    """A figure as it is shown; for a difference, whether it is within the noise."""

    value: str
    interval: str = ""
    noise: bool = False


@dataclass(frozen=True)
class Row:
    """A figure of all models, and by how much the student's differs from each of the others'."""

    title: str
    cells: Sequence[Cell | None]
    gaps: Sequence[Cell | None]


def others(evaluation: Mapping[str, Any]) -> list[str]:
    """The models that the student is compared with."""
    return [model["name"] for model in evaluation["models"] if model["name"] != STUDENT]


def source(evaluation: Mapping[str, Any], split: str) -> str:
    """What the data set calls a split, in parentheses; nothing where it calls it the same."""
    own = evaluation.get("sources", {}).get(split, split)
    return "" if own == split else f" ({own})"


def results(evaluation: Mapping[str, Any], split: str) -> list[Row]:
    """What was measured on a split; a figure that no model has isn't there."""
    figures = {model["name"]: model["splits"][split] for model in evaluation["models"]}
    rows = [
        Row(
            title,
            [_figure(found, key) for found in figures.values()],
            [_gap(figures[STUDENT], name, key) for name in others(evaluation)],
        )
        for key, title in _SHOWN[evaluation["task"]].items()
        if any(key in found for found in figures.values())
    ]
    task = TASKS[evaluation["task"]]
    unrepeated = [found.get("unrepeated", {}).get(task.headline) for found in figures.values()]
    if any(value is not None for value in unrepeated):
        cells = [v if v is None else Cell(in_words(task.headline, v)) for v in unrepeated]
        rows.insert(1, Row(f"{rows[0].title} on texts that aren't in train too", cells, []))
    return rows


def costs(evaluation: Mapping[str, Any]) -> list[tuple[str, list[Cell]]]:
    """What each model takes: a title, and a cell for each model."""
    rows = {
        "parameters": ("Parameters", 1e-6, ".1f", " M"),
        "megabytes": ("Weights", 1, ".1f", " MB"),
        "peak_megabytes": ("Peak memory, 32 texts", 1, ".1f", " MB"),
        "flops_per_token": ("Operations a token", 1e-6, ".1f", " M"),
        "latency_ms_p50": ("One text, median", 1, ".1f", " ms"),
        "latency_ms_p95": ("One text, 95 % under", 1, ".1f", " ms"),
        "texts_per_second": ("Texts a second, 32 at a time", 1, ",.0f", ""),
    }
    return [
        (title, [_cost(model, key, scale, form, unit) for model in evaluation["models"]])
        for key, (title, scale, form, unit) in rows.items()
    ]


def _cost(model: Mapping[str, Any], key: str, scale: float, form: str, unit: str) -> Cell:
    """What a model takes, and below it as a multiple of what its reference takes."""
    ratio = model.get("relative", {}).get(key)
    times = "" if ratio is None else f"{ratio:.2f} \N{MULTIPLICATION SIGN}"
    cost = flat(model)
    return Cell(f"{cost[key] * scale:{form}}{unit}" if cost else "", times)


def every(evaluation: Mapping[str, Any], split: str) -> list[tuple[str, list[str]]]:
    """All figures of a split by the names that gates know them by, and a cell for each model."""
    found = [model["splits"][split] for model in evaluation["models"]]
    return [
        (name, [number(figures[name]) if name in figures else "" for figures in found])
        for name in FIGURES
        if any(name in figures for figures in found)
    ]


def percent(value: float) -> str:
    """A share in percent, to two places."""
    return f"{100 * value:.2f} %"


def points(figure: str, value: float) -> str:
    """A difference of a figure with its sign, of shares in percentage points."""
    shown = f"{100 * value:+.2f}" if is_share(figure) else f"{value:+.4f}"
    return shown.replace("-", "\N{MINUS SIGN}")


def number(value: float) -> str:
    """To four places, or as many digits where it is tiny."""
    return f"{round(value, 4):g}" if abs(value) >= 1e-3 or not value else f"{value:g}"


def duration(seconds: float) -> str:
    """In words, to the second."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "under 1 s"


def _figure(found: Mapping[str, Any], key: str) -> Cell | None:
    if key not in found:
        return None
    bounds = found["intervals"].get(key)
    low, high = (in_words(key, bound).removesuffix(" %") for bound in bounds or (0, 0))
    return Cell(in_words(key, found[key]), f"{low} to {high}" if bounds else "")


def _gap(student: Mapping[str, Any], other: str, key: str) -> Cell | None:
    gap = student["against"][other]["differences"].get(key)
    if gap is None:
        return None
    value, low, high = (points(key, gap[end]) for end in ("value", "low", "high"))
    return Cell(value, f"{low} to {high}", gap["noise"])
