"""The page of a run: one file that a browser opens from the disk, with all that was measured."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from kdcli import __version__
from kdcli.evaluation.metrics.metric_catalog import format_metric as in_words
from kdcli.evaluation.metrics.metric_catalog import is_fraction
from kdcli.evaluation.output import comparison_summary
from kdcli.evaluation.output.evaluation_json import TEACHER, flatten_costs
from kdcli.recipe.loading import dump_recipe
from kdcli.recipe.schema import Recipe
from kdcli.report import metric_tables, svg_plots
from kdcli.report.local_paths import remove_local_paths, remove_local_paths_from_text
from kdcli.report.model_card import describe_transfer_set
from kdcli.report.svg_plots import ChartLine, ModelPoint
from kdcli.sanitize import printable
from kdcli.tasks import SINGLE_LABEL, TASKS, Task

_STAGE_BY_MODEL = {
    metric_tables.STUDENT: "distill"
}  # the other models are called as the stages that train them
_MAX_ERROR_PAIRS, _MAX_CONFUSED_LABELS = 15, 14

ModelResult = Mapping[str, Any]


def render_html_report(
    recipe: Recipe,
    stage_results: Mapping[str, Mapping[str, Any]],
    evaluation: Mapping[str, Any],
    stage_seconds: Mapping[str, float],
) -> str:
    """The page.

    Args:
        recipe: As it was run.
        stage_results: What the stages told of themselves, by stage name.
        evaluation: What `evaluation.json` holds.
        stage_seconds: How long each stage took, by stage name.

    Returns:
        The content of `report.html`. It refers to nothing outside itself and runs no script.
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
        "number": metric_tables.format_number,
        "percent": metric_tables.format_percent,
        "breakable": lambda label: escape(printable(str(label))).replace("_", Markup("_<wbr>")),
    }
    names = [model["name"] for model in evaluation["models"]]
    task = TASKS[evaluation["task"]]
    splits = list(evaluation["examples"])[::-1]  # test, which decides, comes first
    return environment.get_template("page.html.jinja").render(
        recipe=recipe,
        yaml=dump_recipe(remove_local_paths(recipe.with_default_losses(task))),
        task=task,
        origin=remove_local_paths_from_text(recipe, stage_results["student"]["origin"]),
        beyond=describe_transfer_set(recipe, stage_results).replace("*", ""),
        evaluation=evaluation,
        models=names,
        remarks=comparison_summary.comparison_remarks({**evaluation, "examples": splits}),
        others=metric_tables.compared_model_names(evaluation),
        splits=splits,
        source={split: metric_tables.split_source_suffix(evaluation, split) for split in splits},
        results={split: metric_tables.metric_rows(evaluation, split) for split in splits},
        every={split: metric_tables.all_metric_rows(evaluation, split) for split in splits},
        costs=metric_tables.cost_rows(evaluation),
        picture=_trade_off_plot(evaluation, splits[0]),
        fits=[_training_curves(model, history, place, task)
              for place, model in enumerate(names)
              if (history := stage_results[_STAGE_BY_MODEL.get(model, model)]["history"])],
        confusions={s: _ConfusionTable(evaluation, s) for s in splits if _all_models_have(evaluation, "confusion")},
        classes={s: _per_class_f1_rows(evaluation, s) for s in splits if _all_models_have(evaluation, "classes")},
        reliability={s: _reliability_plot(evaluation, s) for s in splits
                     if _all_models_have(evaluation, "reliability")},
        scope={split: found for split in splits if (found := _out_of_scope_plot(evaluation, split))},
        differing={split: _count_disagreements(evaluation, split) for split in splits},
        stages={stage: metric_tables.format_duration(taken) for stage, taken in stage_seconds.items()},
        whole=metric_tables.format_duration(sum(stage_seconds.values())),
        kd_version=__version__,
    )  # fmt: skip


def _escape_control_characters(value: Any) -> Any:
    """What turns the direction of writing, or steers a terminal, is written out; see `outside`."""
    strange = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value, keep="\n") if strange else value


def _all_models_have(evaluation: Mapping[str, Any], detail: str) -> bool:
    """Whether the task has what is not a number of its models: classes, confusion."""
    return all(detail in f for model in evaluation["models"] for f in model["splits"].values())


def _trade_off_plot(evaluation: Mapping[str, Any], split: str) -> Markup:
    dots, said, task = [], [], TASKS[evaluation["task"]]
    scale, unit, title = _headline_scale(task)
    for place, model in enumerate(evaluation["models"]):
        if not flatten_costs(model):
            continue
        found = model["splits"][split]
        value = found[task.primary_metric]
        # Where texts are few or a model says the same of all, no draw may have the figure.
        low, high = found["intervals"].get(task.primary_metric, (value, value))
        dot = ModelPoint(place, model["latency_ms"]["p50"], scale * value,
                  model["megabytes"], scale * low, scale * high)  # fmt: skip
        dots.append(dot)
        shown = in_words(task.primary_metric, value)
        said.append(
            f"{model['name']} {shown} at {dot.latency_ms:.1f} ms and {dot.megabytes:.0f} MB"
        )
    alt = f"{title} on {split} over the time of one text: {'; '.join(said)}."
    return svg_plots.trade_off_plot_svg("trade-off", alt, f"{title} on {split}{unit}", dots)


def _headline_scale(task: Task) -> tuple[float, str, str]:
    """What a headline is multiplied with in a picture, its unit there, and its title."""
    title = task.primary_metric_title[0].upper() + task.primary_metric_title[1:]
    return (100, " (%)", title) if is_fraction(task.primary_metric) else (1, "", title)


def _training_curves(
    model: str, history: Sequence[Mapping[str, Any]], model_index: int, task: Task
) -> dict[str, Any]:
    """A model's training: a picture for the loss, each of its terms and the headline."""
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
        lines, said = [], []
        for side, title_of_side in enumerate(("training", "validation")):
            ys = zip(epochs, (value[side] for value in values), strict=True)
            points = [(epoch, y) for epoch, y in ys if y is not None]
            if points:
                lines.append(ChartLine(model_index, points, dashed=bool(side)))
                said.append(f"{title_of_side} from {points[0][1]:.4g} to {points[-1][1]:.4g}")
        alt = f"{title}, {name} over {len(epochs)} epochs: {', '.join(said)}."
        key = f"{title}-{name}"
        pictures.append(
            svg_plots.line_chart_svg(key, alt, "Epoch", name[0].upper() + name[1:], lines)
        )
    return {"title": title, "place": model_index, "pictures": pictures, "columns": columns,
            "epochs": epochs}  # fmt: skip


class _ConfusionTable:
    """Where the student errs on a split.

    Attributes:
        pairs: The commonest errors: the right label, the one given, texts, the teacher's texts.
        labels: The classes that these are between.
        rows: For each of them, its texts by the label given, those of all other labels last.
    """

    def __init__(self, evaluation: Mapping[str, Any], split: str) -> None:
        models = {model["name"]: model["splits"][split] for model in evaluation["models"]}
        names, student = evaluation["labels"], models[metric_tables.STUDENT]
        cells, teachers = (
            {(names[i], names[j]): texts for i, j, texts in found["confusion"] if i >= 0}
            for found in (student, models[TEACHER])
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
        """Texts, and in whole percent of the class's."""
        shown = [cells.get((label, given), 0) for given in self.labels]
        for count in (*shown, texts - sum(shown)):
            yield count, round(100 * count / max(texts, 1))


def _per_class_f1_rows(
    evaluation: Mapping[str, Any], split: str
) -> list[tuple[str, int, list[float]]]:
    """Label, texts and each model's F1; those that the student is worst at come first."""
    found: dict[str, dict[str, float]] = {}
    support: dict[str, int] = {}
    for model in evaluation["models"]:
        for row in model["splits"][split]["classes"]:
            found.setdefault(row["label"], {})[model["name"]] = row["f1"]
            support[row["label"]] = row["support"]
    names = [model["name"] for model in evaluation["models"]]
    rows = [
        (label, support[label], [f1.get(name, 0.0) for name in names])
        for label, f1 in found.items()
        if support[label]
    ]
    return sorted(rows, key=lambda row: row[2][names.index(metric_tables.STUDENT)])


def _count_disagreements(evaluation: Mapping[str, Any], split: str) -> int | None:
    """How many texts student and teacher label differently, where that is counted by texts."""
    if evaluation["task"] != SINGLE_LABEL.name:
        return None
    student = next(m for m in evaluation["models"] if m["name"] == metric_tables.STUDENT)
    agreement = student["splits"][split]["against"][TEACHER]["agreement"]
    return round((1 - agreement) * evaluation["examples"][split])


def _reliability_plot(evaluation: Mapping[str, Any], split: str) -> dict[str, Any]:
    lines, said = [], []
    for place, model in enumerate(evaluation["models"]):
        if not flatten_costs(model):
            continue
        found = model["splits"][split]
        for kind in ("reliability", "reliability_calibrated"):
            if kind in found:
                points = [(100 * p["confidence"], 100 * p["accuracy"]) for p in found[kind]]
                lines.append(ChartLine(place, points, dashed=kind != "reliability"))
        said.append(
            f"{model['name']}'s calibration error {metric_tables.format_percent(found['ece'])}"
        )
    alt = f"How often each model is right on {split} where it is so sure: {', '.join(said)}."
    picture = svg_plots.line_chart_svg(f"reliability-{split}", alt, "Confidence (%)", "Accuracy (%)", lines,
                          diagonal=True)  # fmt: skip
    return {"picture": picture, "models": evaluation["models"]}


def _out_of_scope_plot(evaluation: Mapping[str, Any], split: str) -> dict[str, Any] | None:
    """Out-of-scope recall over what it costs, by the thresholds that were tried."""
    rows, lines, said = [], [], []
    for place, model in enumerate(evaluation["models"]):
        found = model["splits"][split]
        tried = [b for b in found.get("budgets", ())
                 if "out_of_scope_recall" in b and "in_scope_refused" in b]  # fmt: skip
        tried.sort(key=lambda budget: budget["in_scope_refused"])
        if not tried:
            continue
        points = [(100 * b["in_scope_refused"], 100 * b["out_of_scope_recall"]) for b in tried]
        mark = None
        if "out_of_scope_recall" in found:
            mark = (100 * found["in_scope_refused"], 100 * found["out_of_scope_recall"])
        lines.append(ChartLine(place, points, highlighted_point=mark))
        said.append(f"{model['name']} from {points[0][1]:.0f} to {points[-1][1]:.0f} %")
        rows += [(model["name"], budget) for budget in tried]
    if not lines:
        return None
    alt = (
        f"Out-of-scope recall on {split} over the in-scope texts refused, from "
        f"{lines[0].points[0][0]:.1f} to {lines[0].points[-1][0]:.1f} %: {', '.join(said)}."
    )
    picture = svg_plots.line_chart_svg(f"scope-{split}", alt, "In-scope texts refused (%)",
                          "Out-of-scope recall (%)", lines)  # fmt: skip
    return {"picture": picture, "rows": rows}
