"""The student's model card: the layout that the Hub's readers know, from a run's own figures.

Names come from strangers. The template sets all that it is given as plain text, but for `Markdown`
that was written here; the metadata go through YAML.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from kdcli import __version__
from kdcli.evaluation.output import comparison_summary
from kdcli.recipe.loading import dump_recipe
from kdcli.recipe.schema import Recipe
from kdcli.report import metric_tables
from kdcli.report.local_paths import is_hub_id, last_path_part, public_name, remove_local_paths
from kdcli.report.markdown import (
    RawMarkdown,
    escape_markdown,
    escape_template_value,
    indented_code_block,
    markdown_code_span,
)
from kdcli.sanitize import printable
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, Task

_HUB_TASK = ("text-classification", "Text Classification")
# By task the figures of the metadata, by the Hub's names for their kinds.
_HUB_METRICS = {
    SINGLE_LABEL.name: {"accuracy": ("accuracy", "Accuracy"), "macro_f1": ("f1", "Macro F1")},
    MULTI_LABEL.name: {"micro_f1": ("f1", "Micro F1"), "macro_f1": ("f1", "Macro F1")},
    REGRESSION.name: {"spearman": ("spearmanr", "Spearman"), "pearson": ("pearsonr", "Pearson")},
}
_CITATION_KEYS = {"distilbert": "sanh2019distilbert", "clinc_oos": "larson2019evaluation"}


def render_model_card(
    recipe: Recipe,
    stage_results: Mapping[str, Mapping[str, Any]],
    labels: Sequence[str],
    model_type: str,
    stage_seconds: Mapping[str, float],
) -> str:
    """The card, metadata and text.

    Args:
        recipe: As it was run.
        stage_results: What the stages told of themselves, by stage name.
        labels: The student's label names.
        model_type: Its architecture, as its configuration calls it.
        stage_seconds: How long each stage took, by stage name.

    Returns:
        The content of `README.md`.
    """
    evaluation = stage_results["evaluate"]
    task = TASKS[evaluation["task"]]
    by_teacher = " by the teacher's labels" if recipe.data.label is None else ""
    environment = Environment(
        loader=PackageLoader("kdcli.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
        finalize=escape_template_value,
    )
    environment.filters |= {
        "number": metric_tables.format_number,
        "percent": metric_tables.format_percent,
        "code": markdown_code_span,
    }
    models = {model["name"]: model for model in evaluation["models"]}
    return environment.get_template("card.md.jinja").render(
        metadata=RawMarkdown(
            _model_card_metadata(
                recipe, models[metric_tables.STUDENT], task, evaluation.get("sources", {})
            ).to_yaml()
        ),
        recipe=recipe,
        task=task,
        headline=task.primary_metric_title[0].upper() + task.primary_metric_title[1:] + by_teacher,
        yaml=indented_code_block(dump_recipe(remove_local_paths(recipe.with_default_losses(task)))),
        teacher_link=_teacher_link(recipe),
        black_box=None
        if recipe.black_box_teacher is None
        else remove_local_paths(recipe).teacher.title,
        dataset_link=_dataset_link(recipe),
        beyond=RawMarkdown(describe_transfer_set(recipe, stage_results)),
        origin=_describe_student_origin(recipe, stage_results["student"]),
        code=markdown_code_span,
        literal=RawMarkdown(json.dumps(recipe.name)),
        evaluation=evaluation,
        models=models,
        student=models[metric_tables.STUDENT],
        others=metric_tables.compared_model_names(evaluation),
        results={
            split: metric_tables.metric_rows(evaluation, split) for split in evaluation["examples"]
        },
        source={
            split: metric_tables.split_source_suffix(evaluation, split)
            for split in ("validation", *evaluation["examples"])
        },
        costs=metric_tables.cost_rows(evaluation),
        remarks=comparison_summary.comparison_remarks(evaluation),
        history=stage_results["distill"]["history"],
        versions=stage_results["distill"]["versions"],
        losses=[_describe_loss(loss) for loss in recipe.distill.losses_for_task(task)],
        labels=labels,
        final=_kept_epoch(recipe, stage_results["distill"]["history"], task),
        seed=recipe.seed if recipe.distill.seed is None else recipe.distill.seed,
        stages={
            stage: metric_tables.format_duration(taken) for stage, taken in stage_seconds.items()
        },
        whole=metric_tables.format_duration(sum(stage_seconds.values())),
        papers=[
            _CITATION_KEYS[name]
            for name in (model_type, dataset_display_name(recipe))
            if name in _CITATION_KEYS
        ],
        kd_version=__version__,
    )


def _kept_epoch(
    recipe: Recipe, history: Sequence[Mapping[str, Any]], task: Task
) -> Mapping[str, Any]:
    """The epoch whose weights the student has: the last, or the first of the best ones."""
    if recipe.distill.keep == "last":
        return history[-1]
    return max(history, key=lambda epoch: epoch[task.primary_metric])


def describe_transfer_set(recipe: Recipe, stage_results: Mapping[str, Any]) -> str:
    """A sentence on the texts that the teacher alone labelled; empty where there were none."""
    if not recipe.has_transfer_set:
        return ""
    told = stage_results["transfer"]
    counts = {"unlabelled": "unlabelled texts", "augmented": "altered copies of training texts"}
    found = [f"{told[part]:,} {words}" for part, words in counts.items() if told[part]]
    control = " The *control* is the same student without these, trained for as many steps."
    return (
        f"The student also learnt the teacher's outputs for {' and '.join(found) or 'no others'}, "
        f"which have no labels.{control if recipe.has_control_student else ''}"
    )


def dataset_display_name(recipe: Recipe) -> str:
    """What the data set is called: as the recipe says, or by its id's or path's last part."""
    return printable(recipe.card.dataset_name or last_path_part(recipe.data.dataset))


def _model_card_metadata(
    recipe: Recipe, student: Mapping[str, Any], task: Task, split_sources: Mapping[str, str]
) -> ModelCardData:
    labelled = recipe.data.label is not None
    on_hub = is_hub_id(recipe.data.dataset)
    language = recipe.card.language
    teacher = remove_local_paths(recipe).teacher.title
    start = recipe.student.model or recipe.teacher.title
    return ModelCardData(
        language=printable(language) if isinstance(language, str) else [*map(printable, language)],
        license=printable(recipe.card.license),
        library_name="transformers",
        tags=["generated_from_trainer", "knowledge-distillation", "kd",
              *([f"teacher:{teacher}"] if recipe.white_box_teacher else [])],
        datasets=[recipe.data.dataset] if on_hub else None,
        metrics=[*dict.fromkeys(kind for kind, _ in _HUB_METRICS[task.name].values())]
        if labelled else None,
        base_model=start if is_hub_id(start) else None,
        base_model_relation="finetune" if is_hub_id(start) else None,
        pipeline_tag=_HUB_TASK[0],
        model_name=recipe.name,
        # Agreement with a teacher is no accuracy, and is not to be ranked among them.
        eval_results=_eval_results(recipe, student, task, split_sources) if labelled else None,
    )  # fmt: skip


def _eval_results(
    recipe: Recipe, student: Mapping[str, Any], task: Task, split_sources: Mapping[str, str]
) -> list[EvalResult]:
    name, config = dataset_display_name(recipe), recipe.data.config
    return [
        EvalResult(
            task_type=_HUB_TASK[0],
            task_name=_HUB_TASK[1],
            dataset_type=recipe.data.dataset if is_hub_id(recipe.data.dataset) else name,
            dataset_name=name,
            dataset_config=config and printable(config),
            dataset_split=printable(split_sources.get(split, split)),
            metric_type=kind,
            metric_name=title,
            metric_value=round(float(figures[figure]), 6),
        )
        for split, figures in student["splits"].items()
        for figure, (kind, title) in _HUB_METRICS[task.name].items()
    ]


def _describe_loss(loss: Any) -> str:
    settings = loss.model_dump(exclude={"kind"}, exclude_none=True)
    details = ", ".join(
        f"{key} {_format_config_value(value)}"
        for key, value in settings.items()
        if value is not False
    )
    return f"{loss.kind.replace('_', ' ')} ({details})"


def _format_config_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return " to ".join(map(_format_config_value, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(_format_config_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _describe_student_origin(recipe: Recipe, student: Mapping[str, Any]) -> RawMarkdown:
    if recipe.student.model is not None:
        first = f"It starts from the pretrained model {_model_link(recipe.student.model)}."
        return RawMarkdown(" ".join([first, *map(escape_markdown, student.get("besides", ()))]))
    return escape_markdown(student["origin"])


def _model_link(model: str) -> RawMarkdown:
    if not is_hub_id(model):
        return markdown_code_span(public_name(model))
    return RawMarkdown(f"[{escape_markdown(model)}](https://huggingface.co/{quote(model)})")


def _teacher_link(recipe: Recipe) -> RawMarkdown:
    """What the student is a fine-tuned version of."""
    return _model_link(
        recipe.white_box_teacher.model if recipe.white_box_teacher else recipe.student.model or ""
    )


def _dataset_link(recipe: Recipe) -> RawMarkdown:
    name, source = escape_markdown(dataset_display_name(recipe)), recipe.data.dataset
    if not is_hub_id(source):
        return name
    config = (
        f", configuration {markdown_code_span(recipe.data.config)}" if recipe.data.config else ""
    )
    return RawMarkdown(f"[{name}](https://huggingface.co/datasets/{quote(source)}){config}")
