"""Model card of the student, in the layout that the Trainer writes for the Hub.

Names in data and recipes are untrusted. The template escapes all values that are no `RawMarkdown`;
the metadata are written as YAML.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from kdcli import __version__
from kdcli.evaluation.output import comparison_summary
from kdcli.evaluation.output.evaluation_schema import STUDENT
from kdcli.family_runtimes import RUNTIMES
from kdcli.recipe.loading import dump_recipe
from kdcli.recipe.schema import Recipe
from kdcli.report import metric_tables
from kdcli.report.local_paths import is_hub_id, last_path_part, public_name, remove_local_paths
from kdcli.report.markdown_escaping import (
    RawMarkdown,
    escape_markdown,
    escape_template_value,
    indented_code_block,
    markdown_code_span,
)
from kdcli.sanitize import printable
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, Task

_HUB_TASK = ("text-classification", "Text Classification")
# By task, the metrics in the metadata, with their type and name on the Hub.
_HUB_METRICS = {
    SINGLE_LABEL.name: {"accuracy": ("accuracy", "Accuracy"), "macro_f1": ("f1", "Macro F1")},
    MULTI_LABEL.name: {"micro_f1": ("f1", "Micro F1"), "macro_f1": ("f1", "Macro F1")},
    REGRESSION.name: {"spearman": ("spearmanr", "Spearman"), "pearson": ("pearsonr", "Pearson")},
}
# Models that transformers loads with kd's own class alone.
_OWN_MODEL_TYPES = frozenset({"kd_encoder_head"})
_CITATION_KEYS = {"distilbert": "sanh2019distilbert", "clinc_oos": "larson2019evaluation"}


def render_model_card(
    recipe: Recipe,
    stage_results: Mapping[str, Mapping[str, Any]],
    labels: Sequence[str],
    model_type: str,
    stage_seconds: Mapping[str, float],
) -> str:
    """Render the model card.

    Args:
        recipe: The recipe of the run.
        stage_results: The result of each stage, by its name.
        labels: The names of the student's labels.
        model_type: The architecture of the student, as in its `config.json`.
        stage_seconds: The run time of each stage, by its name.

    Returns:
        The content of `README.md`, metadata included.
    """
    evaluation = stage_results["evaluate"]
    task = TASKS[evaluation["task"]]
    by_teacher = " (teacher's predictions as labels)" if recipe.data.label is None else ""
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
                recipe, models[STUDENT], task, evaluation.get("sources", {}), model_type
            ).to_yaml()
        ),
        recipe=recipe,
        model_type=model_type,
        own_runtime=model_type in RUNTIMES or model_type in _OWN_MODEL_TYPES,
        needs_torch=model_type in _OWN_MODEL_TYPES,
        fitted=stage_results["distill"] if "C" in stage_results["distill"] else None,
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
        exported=stage_results.get("export") if recipe.export else None,
        models=models,
        student=models[STUDENT],
        others=metric_tables.reference_model_names(evaluation),
        results={
            split: metric_tables.metric_rows(evaluation, split) for split in evaluation["examples"]
        },
        source={
            split: metric_tables.source_split_name_suffix(evaluation, split)
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
    """Return the epoch whose weights were kept: the last one, or the first of the best ones."""
    if recipe.distill.keep_checkpoint == "last":
        return history[-1]
    return max(history, key=lambda epoch: epoch[task.primary_metric])


def describe_transfer_set(recipe: Recipe, stage_results: Mapping[str, Any]) -> str:
    """Describe the unlabelled texts that the student was trained on, or return ""."""
    if not recipe.has_transfer_set:
        return ""
    transfer = stage_results["transfer"]
    titles = {
        "unlabelled": "unlabelled texts",
        "augmented": "augmented copies of training texts",
    }
    parts = [f"{transfer[key]:,} {title}" for key, title in titles.items() if transfer[key]]
    control = " The *control* is the same student, trained without these texts for as many steps."
    return (
        f"The student was also trained on the teacher's outputs for "
        f"{' and '.join(parts) or 'no further texts'}."
        f"{control if recipe.has_control_student else ''}"
    )


def dataset_display_name(recipe: Recipe) -> str:
    """Return the data set's name in the recipe, or the last part of its id or path."""
    return printable(recipe.card.dataset_name or last_path_part(recipe.data.dataset))


def _model_card_metadata(
    recipe: Recipe,
    student: Mapping[str, Any],
    task: Task,
    split_sources: Mapping[str, str],
    model_type: str,
) -> ModelCardData:
    labelled = recipe.data.label is not None
    on_hub = is_hub_id(recipe.data.dataset)
    language = recipe.card.language
    teacher = remove_local_paths(recipe).teacher.title
    # A family need not start from the weights of either.
    start = "" if recipe.student.family else recipe.student.model or recipe.teacher.title
    return ModelCardData(
        language=printable(language) if isinstance(language, str) else [*map(printable, language)],
        license=printable(recipe.card.license),
        library_name=_library_name(model_type),
        tags=["generated_from_trainer", "knowledge-distillation", "kd",
              *([f"teacher:{teacher}"] if recipe.white_box_teacher else [])],
        datasets=[recipe.data.dataset] if on_hub else None,
        metrics=[*dict.fromkeys(kind for kind, _ in _HUB_METRICS[task.name].values())]
        if labelled else None,
        base_model=start if is_hub_id(start) else None,
        base_model_relation="finetune" if is_hub_id(start) else None,
        pipeline_tag=_HUB_TASK[0],
        model_name=recipe.name,
        # Agreement with a teacher must not be ranked as accuracy on the Hub.
        eval_results=_eval_results(recipe, student, task, split_sources) if labelled else None,
    )  # fmt: skip


def _library_name(model_type: str) -> str:
    if model_type in RUNTIMES:
        return RUNTIMES[model_type].library
    return "kd" if model_type in _OWN_MODEL_TYPES else "transformers"


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
            metric_value=round(float(metrics[metric]), 6),
        )
        for split, metrics in student["splits"].items()
        for metric, (kind, title) in _HUB_METRICS[task.name].items()
    ]


def _describe_loss(loss: Any) -> str:
    options = loss.model_dump(exclude={"kind"}, exclude_none=True)
    details = ", ".join(
        f"{key} {_format_config_value(value)}"
        for key, value in options.items()
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
    if recipe.student.model is not None and recipe.student.family is None:
        first = f"It starts from the pretrained model {_model_link(recipe.student.model)}."
        return RawMarkdown(" ".join([first, *map(escape_markdown, student.get("besides", ()))]))
    return escape_markdown(student["origin"])


def _model_link(model: str) -> RawMarkdown:
    if not is_hub_id(model):
        return markdown_code_span(public_name(model))
    return RawMarkdown(f"[{escape_markdown(model)}](https://huggingface.co/{quote(model)})")


def _teacher_link(recipe: Recipe) -> RawMarkdown:
    """Link the model that the student is a fine-tuned version of."""
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
