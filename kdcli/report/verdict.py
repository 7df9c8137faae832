"""Verdict on a student in one sentence, and the main figures as tiles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcli.evaluation.metrics.metric_catalog import format_difference, format_metric, is_fraction
from kdcli.evaluation.output.comparison_summary import models_with_one_label
from kdcli.evaluation.output.evaluation_schema import STUDENT, TEACHER, flatten_costs
from kdcli.sanitize import count_noun
from kdcli.tasks import TASKS

_SAME = 0.05
_MINUS = "\N{MINUS SIGN}"
_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Tile:
    """One main figure: a title, the figure in large letters, and lines that explain it."""

    title: str
    value: str
    lines: tuple[str, ...]


def describe_size_ratio(ratio: float) -> str:
    """Describe a size relative to another, as in "23 % smaller"."""
    if abs(ratio - 1) < 0.005:
        return "the same"
    if ratio > 1:
        return f"{100 * (ratio - 1):.0f} % larger"
    percent = f"{100 * (1 - ratio):.0f} % smaller"
    return percent if ratio >= 0.5 else f"{_format_times(1 / ratio)} smaller"


def describe_speed_ratio(speed: float) -> str:
    """Describe a speed relative to another, as in "2.0 times faster"."""
    if abs(speed - 1) < _SAME:
        return "as fast"
    if speed > 1:
        return f"{_format_times(speed)} faster"
    return f"{_format_times(1 / speed)} slower"


def _format_times(factor: float) -> str:
    return f"{factor:,.{1 if factor < 10 else 0}f} {_TIMES}"


def describe_verdict(evaluation: Mapping[str, Any], split: str) -> str:
    """Say in one sentence how good, fast and small the student is beside its teacher."""
    task, models = TASKS[evaluation["task"]], _models(evaluation)
    student, metric = models[STUDENT]["splits"][split], task.primary_metric
    if (STUDENT, split) in models_with_one_label(evaluation):
        return "The student gives every text the same label: do not use it."
    own = format_metric(metric, student[metric])
    texts = count_noun(evaluation["examples"][split], f"{split} text")
    if evaluation["labels_from"] == TEACHER:
        accuracy = f"On {texts}, the student agrees with its teacher: {task.primary_metric_title}"
        accuracy += f" {own}"
    else:
        title, other = task.primary_metric_title, models[TEACHER]["splits"][split]
        against = f"its teacher's {format_metric(metric, other[metric])}"
        accuracy = (
            f"On {texts}, the student's {title} is {own}, {_compare(student, metric)}{against}"
        )
    costs = _cost_phrases(models)
    return f"{accuracy}; it is {' and '.join(costs)}." if costs else f"{accuracy}."


def verdict_tiles(evaluation: Mapping[str, Any], split: str) -> list[Tile]:
    """Return the tiles: metric, speed, size, and out-of-scope texts or agreement."""
    task, models = TASKS[evaluation["task"]], _models(evaluation)
    student, metric = models[STUDENT]["splits"][split], task.primary_metric
    title = task.primary_metric_title[0].upper() + task.primary_metric_title[1:]
    lines = []
    gap = student["against"].get(TEACHER, {}).get("differences", {}).get(metric)
    if evaluation["labels_from"] == TEACHER:
        lines.append("The labels are the teacher's predictions.")
    elif gap is not None:
        value, low, high = (
            format_difference(metric, gap[end]).replace("-", _MINUS)
            for end in ("value", "low", "high")
        )
        unit = " points" if is_fraction(metric) else ""
        lines += [
            f"{value}{unit} against the teacher",
            f"95 % interval {low} to {high}{', not significant' if gap['noise'] else ''}",
        ]
    tiles = [Tile(f"{title} on {split}", format_metric(metric, student[metric]), tuple(lines))]
    tiles += _cost_tiles(models)
    scope = _out_of_scope_tile(student, models[TEACHER]["splits"][split])
    if scope is not None:
        tiles.append(scope)
    elif "agreement" in student:
        tiles.append(
            Tile("Agreement", format_metric("agreement", student["agreement"]),
                 ("of the labels are the teacher's",))
        )  # fmt: skip
    return tiles


def _models(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    return {model["name"]: model for model in evaluation["models"]}


def _compare(student: Mapping[str, Any], metric: str) -> str:
    gap = student["against"][TEACHER]["differences"].get(metric)
    if gap is None:
        return "beside "
    if gap["noise"]:
        return "not significantly different from "
    points = format_difference(metric, gap["value"]).lstrip("+-")
    unit = " points" if is_fraction(metric) else ""
    return f"{points}{unit} {'above' if gap['value'] > 0 else 'below'} "


def _cost_phrases(models: Mapping[str, Any]) -> list[str]:
    relative = models[STUDENT].get("relative", {})
    phrases = []
    if "latency_ms_p50" in relative:
        phrases.append(describe_speed_ratio(1 / relative["latency_ms_p50"]))
    if "megabytes" in relative:
        size = describe_size_ratio(relative["megabytes"])
        phrases.append("of the same size" if size == "the same" else size)
    return phrases


def _cost_tiles(models: Mapping[str, Any]) -> list[Tile]:
    """Return the tiles of speed and size, of the student and of its exports."""
    tiles = []
    teacher, student = flatten_costs(models[TEACHER]), flatten_costs(models[STUDENT])
    exports = {name: flatten_costs(m) for name, m in models.items() if "exported_from" in m}
    for title, key, form in (
        ("Speed", "latency_ms_p50", "{:.1f} ms"),
        ("Size", "megabytes", "{:.1f} MB"),
    ):
        if key not in student:
            continue

        def describe(costs: Mapping[str, float], key: str = key) -> str:
            ratio = costs[key] / teacher[key]
            return (
                describe_speed_ratio(1 / ratio)
                if key == "latency_ms_p50"
                else describe_size_ratio(ratio)
            )

        amount = form.format(student[key])
        what = "a text (median)" if title == "Speed" else "of weights"
        lines = [f"{amount} {what}"]
        value = amount
        if key in teacher:
            value = describe(student)
            lines[0] += f", teacher {form.format(teacher[key])}"
        lines += [
            f"{name}: {form.format(costs[key])}"
            + (f", {describe(costs)}" if key in teacher else "")
            for name, costs in exports.items()
            if key in costs
        ]
        tiles.append(Tile(title, value[0].upper() + value[1:], tuple(lines)))
    return tiles


def _out_of_scope_tile(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> Tile | None:
    for suffix, how in (("_at_threshold", "with the threshold"), ("", "without a threshold")):
        recall, refused = f"out_of_scope_recall{suffix}", f"in_scope_refused{suffix}"
        if recall not in student:
            continue
        lines = [f"of the out-of-scope texts recognised, {how}"]
        if recall in teacher:
            lines[0] += f"; teacher {format_metric(recall, teacher[recall])}"
        if refused in student:
            lines.append(f"{format_metric(refused, student[refused])} of the others refused")
        return Tile("Out of scope", format_metric(recall, student[recall]), tuple(lines))
    return None
