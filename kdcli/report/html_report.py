"""HTML report of a run: all results in one file, without scripts or external resources."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from kdcli import __version__
from kdcli.evaluation.metrics.metric_catalog import format_metric, is_fraction
from kdcli.evaluation.output import comparison_summary
from kdcli.evaluation.output.evaluation_schema import STUDENT, TEACHER, flatten_costs
from kdcli.recipe.loading import dump_recipe
from kdcli.recipe.schema import Recipe
from kdcli.report import metric_tables, svg_plots
from kdcli.report.local_paths import remove_local_paths, remove_local_paths_from_text
from kdcli.report.model_card import describe_transfer_set
from kdcli.report.svg_plots import ChartLine, ModelPoint
from kdcli.report.verdict import describe_verdict, verdict_tiles
from kdcli.sanitize import printable
from kdcli.tasks import REGRESSION, SINGLE_LABEL, TASKS, Task

# The other models have the name of the stage that trains them.
_STAGE_BY_MODEL = {STUDENT: "distill"}
_MAX_ERROR_PAIRS, _MAX_CONFUSED_LABELS = 15, 14

ModelResult = Mapping[str, Any]


def render_html_report(
    recipe: Recipe,
    stage_results: Mapping[str, Mapping[str, Any]],
    evaluation: Mapping[str, Any],
    stage_seconds: Mapping[str, float],
) -> str:
    """Render `report.html`.

    Args:
        recipe: The recipe of the run.
        stage_results: The result of each stage, by its name.
        evaluation: The content of `evaluation.json`.
        stage_seconds: The run time of each stage, by its name.

    Returns:
        The content of `report.html`. It runs no script and refers to nothing outside itself.
    """
    environment = Environment(
        loader=PackageLoader("kdcli.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        finalize=_escape_control_characters,
    )
    environment.filters |= {
        "keep_units": _keep_units,
        "number": metric_tables.format_number,
        "percent": metric_tables.format_percent,
        "breakable": lambda label: escape(printable(str(label))).replace("_", Markup("_<wbr>")),
    }
    names = [model["name"] for model in evaluation["models"]]
    task = TASKS[evaluation["task"]]
    splits = list(evaluation["examples"])[::-1]  # test first
    return environment.get_template("page.html.jinja").render(
        recipe=recipe,
        yaml=dump_recipe(remove_local_paths(recipe.with_default_losses(task))),
        task=task,
        origin=remove_local_paths_from_text(recipe, stage_results["student"]["origin"]),
        beyond=describe_transfer_set(recipe, stage_results).replace("*", ""),
        evaluation=evaluation,
        models=names,
        remarks=comparison_summary.comparison_remarks({**evaluation, "examples": splits}),
        others=metric_tables.reference_model_names(evaluation),
        splits=splits,
        source={
            split: metric_tables.source_split_name_suffix(evaluation, split) for split in splits
        },
        results={split: metric_tables.metric_rows(evaluation, split) for split in splits},
        every={split: metric_tables.all_metric_rows(evaluation, split) for split in splits},
        costs=metric_tables.cost_rows(evaluation),
        picture=_trade_off_plot(evaluation, splits[0]),
        fits=[_training_curves(model, history, index, task)
              for index, model in enumerate(names)
              if (history := _training_history(stage_results, model))],
        confusions={s: _ConfusionTable(evaluation, s) for s in splits
                    if _all_models_have(evaluation, "confusion")},
        classes={s: _per_class_f1_rows(evaluation, s) for s in splits
                 if _all_models_have(evaluation, "classes")},
        reliability={s: _reliability_plot(evaluation, s) for s in splits
                     if _all_models_have(evaluation, "reliability")},
        scope={s: plot for s in splits if (plot := _out_of_scope_plot(evaluation, s))},
        differing={split: _count_disagreements(evaluation, split) for split in splits},
        disagreements={split: _group_disagreements(evaluation, split) for split in splits},
        verdict=_keep_units(describe_verdict(evaluation, splits[0])),
        tiles=verdict_tiles(evaluation, splits[0]),
        stages={s: metric_tables.format_duration(time) for s, time in stage_seconds.items()},
        whole=metric_tables.format_duration(sum(stage_seconds.values())),
        kd_version=__version__,
    )  # fmt: skip


def _training_history(
    stage_results: Mapping[str, Mapping[str, Any]], model: str
) -> Sequence[Mapping[str, Any]]:
    """Return the epochs of a model's training; none for an exported model."""
    return stage_results.get(_STAGE_BY_MODEL.get(model, model), {}).get("history", ())


def _escape_control_characters(value: Any) -> Any:
    """Show characters that change the writing direction or control a terminal as escapes."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value, keep="\n") if is_text else value


def _keep_units(text: str) -> str:
    """Keep numbers and the units behind them on one line."""
    return re.sub(r"(?<=\d) (?=%|\N{MULTIPLICATION SIGN}|MB|ms)", "\N{NO-BREAK SPACE}", text)


def _all_models_have(evaluation: Mapping[str, Any], detail: str) -> bool:
    """Return whether all models have a table such as `classes` or `confusion` on all splits."""
    return all(
        detail in metrics for model in evaluation["models"] for metrics in model["splits"].values()
    )


def _trade_off_plot(evaluation: Mapping[str, Any], split: str) -> Markup:
    points, captions, task = [], [], TASKS[evaluation["task"]]
    scale, unit, title = _headline_scale(task)
    for index, model in enumerate(evaluation["models"]):
        if not flatten_costs(model):
            continue
        metrics = model["splits"][split]
        value = metrics[task.primary_metric]
        # With few texts or constant predictions, no resample may have a value.
        low, high = metrics["intervals"].get(task.primary_metric, (value, value))
        point = ModelPoint(index, model["latency_ms"]["p50"], scale * value,
                  model["megabytes"], scale * low, scale * high)  # fmt: skip
        points.append(point)
        captions.append(
            f"{model['name']} {format_metric(task.primary_metric, value)} at "
            f"{point.latency_ms:.1f} ms and {point.megabytes:.0f} MB"
        )
    alt = f"{title} on {split} against latency of one text: {'; '.join(captions)}."
    return svg_plots.trade_off_plot_svg("trade-off", alt, f"{title} on {split}{unit}", points)


def _headline_scale(task: Task) -> tuple[float, str, str]:
    """Return the factor, the unit and the title of the primary metric in charts."""
    title = task.primary_metric_title[0].upper() + task.primary_metric_title[1:]
    return (100, " (%)", title) if is_fraction(task.primary_metric) else (1, "", title)


def _training_curves(
    model: str, history: Sequence[Mapping[str, Any]], model_index: int, task: Task
) -> dict[str, Any]:
    """Chart the loss, each of its terms and the primary metric over the epochs."""
    title, terms = model.capitalize(), list(history[0]["training_terms"])
    columns: dict[str, list[tuple[float | None, float]]] = {}
    if len(terms) > 1:
        columns["loss"] = [(row["training_loss"], row["validation_loss"]) for row in history]
    for term in terms:
        columns[term.replace("_", " ")] = [
            (row["training_terms"][term], row["validation_terms"][term]) for row in history
        ]
    scale, unit, _ = _headline_scale(task)
    columns[task.primary_metric_title + unit] = [
        (None, scale * row[task.primary_metric]) for row in history
    ]
    epochs = [row["epoch"] for row in history]
    pictures = []
    for name, values in columns.items():
        lines, captions = [], []
        for side, data in enumerate(("training", "validation")):
            ys = zip(epochs, (value[side] for value in values), strict=True)
            points = [(epoch, y) for epoch, y in ys if y is not None]
            if points:
                lines.append(ChartLine(model_index, points, dashed=bool(side)))
                captions.append(f"{data} from {points[0][1]:.4g} to {points[-1][1]:.4g}")
        alt = f"{title}, {name} over {len(epochs)} epochs: {', '.join(captions)}."
        key = f"{title}-{name}"
        pictures.append(
            svg_plots.line_chart_svg(key, alt, "Epoch", name[0].upper() + name[1:], lines)
        )
    return {"title": title, "place": model_index, "pictures": pictures, "columns": columns,
            "epochs": epochs}  # fmt: skip


class _ConfusionTable:
    """The most frequent errors of the student on a split.

    Attributes:
        pairs: (label, predicted label, texts, texts of the teacher), the most frequent first.
        labels: The classes that occur in them.
        rows: For each of these, its texts by predicted label; the last cell has all other labels.
    """

    def __init__(self, evaluation: Mapping[str, Any], split: str) -> None:
        models = {model["name"]: model["splits"][split] for model in evaluation["models"]}
        names, student = evaluation["labels"], models[STUDENT]
        cells, teachers = (
            {(names[i], names[j]): texts for i, j, texts in metrics["confusion"] if i >= 0}
            for metrics in (student, models[TEACHER])
        )
        errors = sorted(((n, *pair) for pair, n in cells.items() if pair[0] != pair[1]),
                        key=lambda error: (-error[0], error[1:]))  # fmt: skip
        self.pairs = [(a, b, n, teachers.get((a, b), 0)) for n, a, b in errors[:_MAX_ERROR_PAIRS]]
        between = dict.fromkeys(label for pair in self.pairs for label in pair[:2])
        self.labels = list(between)[:_MAX_CONFUSED_LABELS]
        support = {c["label"]: c["support"] for c in student["classes"]}
        self.rows = [
            (label, support.get(label, 0), list(self._row(label, cells, support.get(label, 0))))
            for label in self.labels
        ]

    def _row(
        self, label: str, cells: Mapping[tuple[str, str], int], texts: int
    ) -> Iterator[tuple[int, int]]:
        """Yield the texts of each cell, and their share of the class in whole percent."""
        counts = [cells.get((label, predicted), 0) for predicted in self.labels]
        for count in (*counts, texts - sum(counts)):
            yield count, round(100 * count / max(texts, 1))


def _per_class_f1_rows(
    evaluation: Mapping[str, Any], split: str
) -> list[tuple[str, int, list[float]]]:
    """Return label, texts and each model's F1, the lowest F1 of the student first."""
    f1_by_label: dict[str, dict[str, float]] = {}
    support: dict[str, int] = {}
    for model in evaluation["models"]:
        for row in model["splits"][split]["classes"]:
            f1_by_label.setdefault(row["label"], {})[model["name"]] = row["f1"]
            support[row["label"]] = row["support"]
    names = [model["name"] for model in evaluation["models"]]
    rows = [
        (label, support[label], [f1.get(name, 0.0) for name in names])
        for label, f1 in f1_by_label.items()
        if support[label]
    ]
    return sorted(rows, key=lambda row: row[2][names.index(STUDENT)])


def _count_disagreements(evaluation: Mapping[str, Any], split: str) -> int | None:
    """Count the texts that student and teacher label differently, or None for other tasks."""
    if evaluation["task"] != SINGLE_LABEL.name:
        return None
    student = next(m for m in evaluation["models"] if m["name"] == STUDENT)
    agreement = student["splits"][split]["against"][TEACHER]["agreement"]
    return round((1 - agreement) * evaluation["examples"][split])


def _group_disagreements(
    evaluation: Mapping[str, Any], split: str
) -> list[tuple[str, int | None, list[Mapping[str, Any]]]]:
    """Group the disagreements by who is right: a title, the number of texts in all, and rows."""
    rows = evaluation["apart"][split]
    if TASKS[evaluation["task"]] is REGRESSION or evaluation["labels_from"] == TEACHER:
        return [("", None, rows)] if rows else []
    groups: dict[str, list[Mapping[str, Any]]] = {
        "Teacher right, student wrong": [],
        "Student right, teacher wrong": [],
        "Both wrong": [],
    }
    broken, repaired, both = groups.values()
    for row in rows:
        if row["teacher_label"] == row["label"]:
            broken.append(row)
        elif row["student_label"] == row["label"]:
            repaired.append(row)
        else:
            both.append(row)
    student = next(m for m in evaluation["models"] if m["name"] == STUDENT)
    pair = student["splits"][split]["against"][TEACHER]
    totals = (pair.get("broken"), pair.get("repaired"), None)
    return [
        (title, total, found)
        for (title, found), total in zip(groups.items(), totals, strict=True)
        if found
    ]


def _reliability_plot(evaluation: Mapping[str, Any], split: str) -> dict[str, Any]:
    lines, captions = [], []
    for index, model in enumerate(evaluation["models"]):
        if not flatten_costs(model):
            continue
        metrics = model["splits"][split]
        for kind in ("reliability", "reliability_calibrated"):
            if kind in metrics:
                points = [(100 * p["confidence"], 100 * p["accuracy"]) for p in metrics[kind]]
                lines.append(ChartLine(index, points, dashed=kind != "reliability"))
        captions.append(
            f"{model['name']} with a calibration error of "
            f"{metric_tables.format_percent(metrics['ece'])}"
        )
    alt = f"Accuracy against confidence on {split}: {', '.join(captions)}."
    picture = svg_plots.line_chart_svg(
        f"reliability-{split}", alt, "Confidence (%)", "Accuracy (%)", lines, diagonal=True
    )
    return {"picture": picture, "models": evaluation["models"]}


def _out_of_scope_plot(evaluation: Mapping[str, Any], split: str) -> dict[str, Any] | None:
    """Chart out-of-scope recall against refused in-scope texts, for each threshold tried."""
    rows, lines, captions = [], [], []
    for index, model in enumerate(evaluation["models"]):
        metrics = model["splits"][split]
        budgets = [b for b in metrics.get("budgets", ())
                   if "out_of_scope_recall" in b and "in_scope_refused" in b]  # fmt: skip
        budgets.sort(key=lambda budget: budget["in_scope_refused"])
        if not budgets:
            continue
        points = [(100 * b["in_scope_refused"], 100 * b["out_of_scope_recall"]) for b in budgets]
        mark = None
        if "out_of_scope_recall" in metrics:
            mark = (100 * metrics["in_scope_refused"], 100 * metrics["out_of_scope_recall"])
        lines.append(ChartLine(index, points, highlighted_point=mark))
        captions.append(f"{model['name']} from {points[0][1]:.0f} to {points[-1][1]:.0f} %")
        rows += [(model["name"], budget) for budget in budgets]
    if not lines:
        return None
    alt = (
        f"Out-of-scope recall on {split} against the in-scope texts refused, from "
        f"{lines[0].points[0][0]:.1f} to {lines[0].points[-1][0]:.1f} %: {', '.join(captions)}."
    )
    picture = svg_plots.line_chart_svg(
        f"scope-{split}", alt, "In-scope texts refused (%)", "Out-of-scope recall (%)", lines
    )
    return {"picture": picture, "rows": rows}
