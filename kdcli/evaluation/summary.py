"""The figures that decide, in a table for 80 columns and in words."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from kdcli.evaluation.document import BASELINE, STUDENT, TEACHER, flat, is_share, shown
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, Task

Model = Mapping[str, Any]

# By task the figures below the headline.
_SHOWN = {
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

_DECIDED = (
    "The texts have no labels: what the teacher says stands for them. Its own {0} says nothing, "
    "and the others' is their agreement with it."
)
_COSTS = {
    "parameters": ("parameters", 1e-6, "{:.2f} M"),
    "megabytes": ("weights", 1, "{:.1f} MB"),
    "latency_ms_p50": ("one text, median", 1, "{:.1f} ms"),
    "latency_ms_p95": ("one text, 95 % under", 1, "{:.1f} ms"),
    "texts_per_second": ("texts a second", 1, "{:,.0f}"),
}


def rows(evaluation: Mapping[str, Any]) -> list[list[str]]:
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
    costs = [flat(model) for model in models]
    found += [
        [f"  {title}", *(shape.format(cost[key] * scale) if cost else "" for cost in costs)]
        for key, (title, scale, shape) in _COSTS.items()
    ]
    speed = ["  times as fast", *map(_speed, models)]
    return [*found, speed] if any(speed[1:]) else found


def _split_rows(split: str, models: list[Model], task: Task) -> list[list[str]]:
    figures, headline = [m["splits"][split] for m in models], task.headline
    refusing = f"{headline}_at_threshold"
    return [
        [f"  {task.title}", *(_with_interval(f, headline) for f in figures)],
        ["  difference", *(_difference(m, split, headline) for m in models)],
        ["  without repeats", *(_shown(headline, f.get("unrepeated", {})) for f in figures)],
        *(
            [f"  {title}", *(_shown(key, f) for f in figures)]
            for key, title in _SHOWN[task.name].items()
        ),
        ["  calibration error", *map(_calibration, figures)],
        ["  with the threshold", *(_with_interval(f, refusing) for f in figures)],
        ["    recall", *(_shown("out_of_scope_recall_at_threshold", f) for f in figures)],
    ]


def remarks(evaluation: Mapping[str, Any]) -> list[str]:
    """What the figures say, in words: which differences are more than noise, and the thresholds."""
    models, task = evaluation["models"], TASKS[evaluation["task"]]
    compared = [model for model in models if model["reference"]]
    return [
        *([_DECIDED.format(task.title)] if evaluation["labels_from"] == TEACHER else []),
        *(_compared(model, split, task) for split in evaluation["examples"] for model in compared),
        *_in_vain(models, evaluation["examples"], task),
        *(_refusing(model) for model in models if _setting(model, "operating_point")),
        *(_giving(model) for model in models if _setting(model, "thresholds")),
    ]


def _compared(model: Model, split: str, task: Task) -> str:
    name, other = model["name"], model["reference"]
    against = model["splits"][split]["against"][other]
    gap = against["differences"][task.headline]
    value, low, high = (_points(task.headline, gap[key]) for key in ("value", "low", "high"))
    in_points = " points" if is_share(task.headline) else f" in {task.title}"
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


def _in_vain(models: list[Model], splits: Iterable[str], task: Task) -> list[str]:
    """That the labels alone taught more than the teacher, where it is more than noise."""
    students = [model for model in models if model["name"] == STUDENT]
    for split, student in product(splits, students):
        gap = _gap(student, split, BASELINE, task.headline)
        if gap is not None and gap["value"] < 0 and not gap["noise"]:
            below = _points(task.headline, -gap["value"]).lstrip("+")
            return [
                f"{split}: {task.title} of the student is {below} below the baseline's, which "
                "learnt from the labels alone: this teacher holds it back. Fine-tune it longer, "
                "take a better one, or give its losses less weight."
            ]
    return []


def _refusing(model: Model) -> str:
    point = _setting(model, "operating_point")
    return (
        f"{model['name']}'s threshold: {point['label']} where the {point['score']} score is below "
        f"{point['threshold']:.4g}. It {_source(model)}, at {100 * point['refuse_at_most']:g} % of "
        "in-scope texts refused."
    )


def _giving(model: Model) -> str:
    found = _setting(model, "thresholds").values()
    low, high = min(found), max(found)
    which = f"of {low:.3f}" if low == high else f"of {low:.3f} to {high:.3f}, each its own,"
    return (
        f"{model['name']}'s threshold: a label is given from a probability {which} on. "
        f"It {_source(model)}, for the best F1."
    )


def _source(model: Model) -> str:
    of_model = model["settings"]["from"] == "model"
    return "comes with the model" if of_model else "was chosen on validation"


def _setting(model: Model, key: str) -> Any:
    return (model["settings"] or {}).get(key)


def _shown(figure: str, figures: Mapping[str, Any]) -> str:
    return shown(figure, figures[figure]) if figure in figures else ""


def _with_interval(figures: Mapping[str, Any], key: str) -> str:
    if key not in figures:
        return ""
    if key not in figures["intervals"]:
        return shown(key, figures[key])
    low, high = figures["intervals"][key]
    if not is_share(key):
        return f"{figures[key]:.4f} ± {(high - low) / 2:.4f}"
    return f"{100 * figures[key]:.2f} ± {50 * (high - low):.2f} %"


def _difference(model: Model, split: str, headline: str) -> str:
    gap = _gap(model, split, model["reference"], headline)
    if gap is None:
        return ""
    return f"{_points(headline, gap['value'])}{', noise' if gap['noise'] else ''}"


def _gap(model: Model, split: str, other: str | None, figure: str) -> Any:
    """The difference from another model, None where the two aren't compared."""
    against = model["splits"][split]["against"].get(other, {})
    return against.get("differences", {}).get(figure)


def _calibration(figures: Mapping[str, Any]) -> str:
    if "ece" not in figures:
        return ""
    before, after = figures["ece"], figures.get("ece_calibrated")
    return f"{100 * before:.1f} %" if after is None else f"{100 * before:.1f} → {100 * after:.1f} %"


def _speed(model: Model) -> str:
    ratio = model.get("relative", {}).get("latency_ms_p50")
    return f"{1 / ratio:.2f}" if ratio else ""


def _points(figure: str, value: float) -> str:
    return f"{100 * value:+.2f}" if is_share(figure) else f"{value:+.4f}"
