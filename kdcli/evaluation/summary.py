"""The figures that decide, in a table for 80 columns and in words."""

from collections.abc import Mapping
from typing import Any

Model = Mapping[str, Any]

_SHARES = {
    "macro_f1": "macro F1",
    "in_scope_accuracy": "in-scope accuracy",
    "out_of_scope_recall": "out-of-scope recall",
    "agreement": "agreement",
}


def rows(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """The table: what a row is of, then a cell for each model.

    Args:
        evaluation: As `evaluation.json` holds it, or its short form.
    """
    models = evaluation["models"]
    found = []
    for split, texts in evaluation["examples"].items():
        found.append([f"{split}, {texts:,} texts", *("" for _ in models)])
        found += [row for row in _split_rows(split, models) if any(row[1:])]
    found.append(["cost", *("" for _ in models)])
    found.append(["  parameters", *(f"{m['parameters'] / 1e6:.2f} M" for m in models)])
    found.append(["  weights", *(f"{m['megabytes']:.1f} MB" for m in models)])
    found.append(["  one text, median", *(f"{m['latency_ms']['p50']:.1f} ms" for m in models)])
    found.append(["  one text, 95 % under", *(f"{m['latency_ms']['p95']:.1f} ms" for m in models)])
    found.append(["  texts a second", *(f"{m['texts_per_second']:,.0f}" for m in models)])
    speed = ["  times as fast", *map(_speed, models)]
    return [*found, speed] if any(speed[1:]) else found


def _split_rows(split: str, models: list[Model]) -> list[list[str]]:
    figures = [m["splits"][split] for m in models]
    return [
        ["  accuracy", *(_with_interval(f, "accuracy") for f in figures)],
        ["  difference", *(_difference(m, split) for m in models)],
        ["  without repeats", *(_percent(_unrepeated(f)) for f in figures)],
        *(
            [f"  {title}", *(_percent(f.get(key)) for f in figures)]
            for key, title in _SHARES.items()
        ),
        ["  calibration error", *map(_calibration, figures)],
        ["  with the threshold", *(_with_interval(f, "accuracy_at_threshold") for f in figures)],
        ["    recall", *(_percent(f.get("out_of_scope_recall_at_threshold")) for f in figures)],
    ]


def remarks(evaluation: Mapping[str, Any]) -> list[str]:
    """What the figures say, in words: which differences are more than noise, and the thresholds."""
    models = evaluation["models"]
    compared = [model for model in models if model["reference"]]
    return [
        *(_compared(model, split) for split in evaluation["examples"] for model in compared),
        *(_refusing(model) for model in models if _point(model)),
    ]


def _compared(model: Model, split: str) -> str:
    name, other = model["name"], model["reference"]
    against = model["splits"][split]["against"][other]
    gap = against["differences"]["accuracy"]
    p = "p < 0.001" if against["p"] < 0.001 else f"p = {against['p']:.2g}"
    tested = f"95 % interval {_points(gap['low'])} to {_points(gap['high'])}, McNemar {p}"
    if gap["noise"]:
        verdict = f"{name} and {other} differ within the noise, by {_points(gap['value'])} points"
    else:
        side = "above" if gap["value"] > 0 else "below"
        verdict = f"{name} is {100 * abs(gap['value']):.2f} points {side} {other}"
    flips = f"It breaks {against['broken']:,} texts and repairs {against['repaired']:,}."
    return f"{split}: {verdict} ({tested}). {flips}"


def _refusing(model: Model) -> str:
    settings, point = model["settings"], _point(model)
    source = "comes with the model" if settings["from"] == "model" else "was chosen on validation"
    return (
        f"{model['name']}'s threshold: {point['label']} where the {point['score']} score is below "
        f"{point['threshold']:.4g}. It {source}, at {100 * point['refuse_at_most']:g} % of "
        "in-scope texts refused."
    )


def _point(model: Model) -> Any:
    return (model["settings"] or {}).get("operating_point")


def _unrepeated(figures: Mapping[str, Any]) -> float | None:
    return figures.get("unrepeated", {}).get("accuracy")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _with_interval(figures: Mapping[str, Any], key: str) -> str:
    if key not in figures:
        return ""
    low, high = figures["intervals"][key]
    return f"{100 * figures[key]:.2f} ± {50 * (high - low):.2f} %"


def _difference(model: Model, split: str) -> str:
    against = model["splits"][split]["against"].get(model["reference"], {})
    gap = against.get("differences", {}).get("accuracy")
    if gap is None:
        return ""
    return f"{_points(gap['value'])}{', noise' if gap['noise'] else ''}"


def _calibration(figures: Mapping[str, Any]) -> str:
    before, after = figures["ece"], figures.get("ece_calibrated")
    return f"{100 * before:.1f} %" if after is None else f"{100 * before:.1f} → {100 * after:.1f} %"


def _speed(model: Model) -> str:
    ratio = model.get("relative", {}).get("latency_ms_p50")
    return f"{1 / ratio:.2f}" if ratio else ""


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"
