"""The student's model card: the layout that the Hub's readers know, from a run's own figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from kdcli import __version__
from kdcli.recipe.schema import Recipe

_TASK = ("text-classification", "Text Classification")
_METRICS = {"accuracy": ("accuracy", "Accuracy"), "macro_f1": ("f1", "Macro F1")}
_TITLES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "in_scope_accuracy": "In-scope accuracy",
    "out_of_scope_recall": "Out-of-scope recall",
    "agreement": "Agreement with the teacher",
}


def render(recipe: Recipe, results: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> str:
    """The card, metadata and text.

    Args:
        recipe: As it was run.
        results: What the stages told of themselves, by stage name.
        labels: The student's label names.

    Returns:
        The content of `README.md`.
    """
    evaluation = results["evaluate"]
    teacher, student = evaluation["models"]
    environment = Environment(
        loader=PackageLoader("kdcli.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["number"] = _number
    return environment.get_template("card.md.jinja").render(
        metadata=_metadata(recipe, student).to_yaml(),
        recipe=recipe,
        teacher_link=_link(recipe.teacher.model),
        dataset_link=_dataset_link(recipe),
        origin=results["student"]["origin"],
        teacher=teacher,
        student=student,
        rows=_rows(teacher, student),
        examples=evaluation["examples"],
        threads=evaluation["threads"],
        history=results["distill"]["history"],
        versions=results["distill"]["versions"],
        losses=[_loss(loss) for loss in recipe.distill.losses],
        labels=labels,
        final=results["distill"]["history"][-1],
        kd_version=__version__,
    )


def dataset_name(recipe: Recipe) -> str:
    """What the data set is called: as the recipe says, or by its id's or path's last part."""
    return recipe.card.dataset_name or recipe.data.dataset.rstrip("/").rpartition("/")[2]


def _metadata(recipe: Recipe, student: Mapping[str, Any]) -> ModelCardData:
    on_hub = _is_hub_id(recipe.data.dataset)
    language = recipe.card.language
    return ModelCardData(
        language=language if isinstance(language, str) else list(language),
        license=recipe.card.license,
        library_name="transformers",
        tags=["generated_from_trainer", "knowledge-distillation", "kd"],
        datasets=[recipe.data.dataset] if on_hub else None,
        metrics=[kind for kind, _ in _METRICS.values()],
        base_model=recipe.teacher.model if _is_hub_id(recipe.teacher.model) else None,
        base_model_relation="finetune" if _is_hub_id(recipe.teacher.model) else None,
        pipeline_tag=_TASK[0],
        model_name=recipe.name,
        eval_results=_eval_results(recipe, student),
    )


def _eval_results(recipe: Recipe, student: Mapping[str, Any]) -> list[EvalResult]:
    name = dataset_name(recipe)
    return [
        EvalResult(
            task_type=_TASK[0],
            task_name=_TASK[1],
            dataset_type=recipe.data.dataset if _is_hub_id(recipe.data.dataset) else name,
            dataset_name=name,
            dataset_config=recipe.data.config,
            dataset_split=split,
            metric_type=kind,
            metric_name=title,
            metric_value=round(float(figures[figure]), 6),
        )
        for split, figures in student["splits"].items()
        for figure, (kind, title) in _METRICS.items()
    ]


def _rows(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The results table: a figure's name, the teacher's and the student's."""
    rows: list[tuple[str, ...]] = [
        (
            f"{title} ({split})",
            _percent(teacher["splits"][split].get(key)),
            _percent(student["splits"][split].get(key)),
        )
        for split in student["splits"]
        for key, title in _TITLES.items()
        if key in student["splits"][split]
    ]
    rows.append(("Parameters", *(f"{m['parameters'] / 1e6:.1f} M" for m in (teacher, student))))
    rows.append(("Weights", *(f"{m['megabytes']:.0f} MB" for m in (teacher, student))))
    times = (f"{m['latency_ms']['p50']:.1f} ms" for m in (teacher, student))
    rows.append(("One text, median", *times))
    return rows


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _loss(loss: Any) -> str:
    details = "".join(
        f", {key} {value:g}" for key, value in loss.model_dump(exclude={"kind", "weight"}).items()
    )
    return f"{loss.kind.replace('_', ' ')} (weight {loss.weight:g}{details})"


def _number(value: float) -> str:
    return f"{round(value, 4):g}" if abs(value) >= 1e-3 or not value else f"{value:g}"


def _link(model: str) -> str:
    return (
        f"[{model}](https://huggingface.co/{model})" if _is_hub_id(model) else f"`{_tail(model)}`"
    )


def _dataset_link(recipe: Recipe) -> str:
    name, source = dataset_name(recipe), recipe.data.dataset
    if not _is_hub_id(source):
        return name
    config = f", configuration `{recipe.data.config}`" if recipe.data.config else ""
    return f"[{name}](https://huggingface.co/datasets/{source}){config}"


def _is_hub_id(source: str) -> bool:
    return not source.startswith(("/", ".", "~", "package:"))


def _tail(path: str) -> str:
    return path if path.startswith("package:") else path.rstrip("/").rpartition("/")[2]
