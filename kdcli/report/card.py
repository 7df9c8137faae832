"""The student's model card: the layout that the Hub's readers know, from a run's own figures.

Names come from strangers. The template sets all that it is given as plain text, but for `Markdown`
that was written here; the metadata go through YAML.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, PackageLoader, StrictUndefined

from kdcli import __version__
from kdcli.evaluation import summary
from kdcli.outside import printable
from kdcli.recipe import endpoints
from kdcli.recipe.base import Spec
from kdcli.recipe.black_box import EndpointSpec
from kdcli.recipe.load import dump
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import TeacherSpec
from kdcli.report import tables
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, Task

_TASK = ("text-classification", "Text Classification")
# By task the figures of the metadata, by the Hub's names for their kinds.
_METRICS = {
    SINGLE_LABEL.name: {"accuracy": ("accuracy", "Accuracy"), "macro_f1": ("f1", "Macro F1")},
    MULTI_LABEL.name: {"micro_f1": ("f1", "Micro F1"), "macro_f1": ("f1", "Macro F1")},
    REGRESSION.name: {"spearman": ("spearmanr", "Spearman"), "pearson": ("pearsonr", "Pearson")},
}
_PAPERS = {"distilbert": "sanh2019distilbert", "clinc_oos": "larson2019evaluation"}

# What Markdown, or a reader of it that makes links of addresses, would take for more than text.
_SIGNS = re.compile(r"[\\`*{}\[\]<>#|~&$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|\.(?=[^\W\d])")


class Markdown(str):
    """Text that is Markdown already."""


def render(
    recipe: Recipe,
    results: Mapping[str, Mapping[str, Any]],
    labels: Sequence[str],
    model_type: str,
    seconds: Mapping[str, float],
) -> str:
    """The card, metadata and text.

    Args:
        recipe: As it was run.
        results: What the stages told of themselves, by stage name.
        labels: The student's label names.
        model_type: Its architecture, as its configuration calls it.
        seconds: How long each stage took, by stage name.

    Returns:
        The content of `README.md`.
    """
    evaluation = results["evaluate"]
    task = TASKS[evaluation["task"]]
    by_teacher = " by the teacher's labels" if recipe.data.label is None else ""
    environment = Environment(
        loader=PackageLoader("kdcli.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
        finalize=_set,
    )
    environment.filters |= {"number": tables.number, "percent": tables.percent, "code": code}
    models = {model["name"]: model for model in evaluation["models"]}
    return environment.get_template("card.md.jinja").render(
        metadata=Markdown(
            _metadata(recipe, models[tables.STUDENT], task, evaluation.get("sources", {})).to_yaml()
        ),
        recipe=recipe,
        task=task,
        headline=task.title[0].upper() + task.title[1:] + by_teacher,
        yaml=_indented(dump(public(recipe.spelt_out(task)))),
        teacher_link=_teacher_link(recipe),
        black_box=None if recipe.black_box is None else public(recipe).teacher.title,
        dataset_link=_dataset_link(recipe),
        beyond=Markdown(transfer(recipe, results)),
        origin=_origin(recipe, results["student"]),
        code=code,
        literal=Markdown(json.dumps(recipe.name)),
        evaluation=evaluation,
        models=models,
        student=models[tables.STUDENT],
        others=tables.others(evaluation),
        results={split: tables.results(evaluation, split) for split in evaluation["examples"]},
        source={
            split: tables.source(evaluation, split)
            for split in ("validation", *evaluation["examples"])
        },
        costs=tables.costs(evaluation),
        remarks=summary.remarks(evaluation),
        history=results["distill"]["history"],
        versions=results["distill"]["versions"],
        losses=[_loss(loss) for loss in recipe.distill.terms(task)],
        labels=labels,
        final=_kept(recipe, results["distill"]["history"], task),
        seed=recipe.seed if recipe.distill.seed is None else recipe.distill.seed,
        stages={stage: tables.duration(taken) for stage, taken in seconds.items()},
        whole=tables.duration(sum(seconds.values())),
        papers=[_PAPERS[name] for name in (model_type, dataset_name(recipe)) if name in _PAPERS],
        kd_version=__version__,
    )


def _kept(recipe: Recipe, history: Sequence[Mapping[str, Any]], task: Task) -> Mapping[str, Any]:
    """The epoch whose weights the student has: the last, or the first of the best ones."""
    if recipe.distill.keep == "last":
        return history[-1]
    return max(history, key=lambda epoch: epoch[task.headline])


def public(recipe: Recipe) -> Recipe:
    """The recipe without this machine's paths: what is local is called by its last part."""
    teacher = recipe.teacher
    places: dict[str, Any] = {}
    if teacher.source is not None:
        places = {teacher.source: _public(getattr(teacher, teacher.source))}
    if isinstance(teacher, TeacherSpec):
        also = tuple(o.model_copy(update={"model": _public(o.model)}) for o in teacher.also)
        places = {**places, "also": also}
    if isinstance(teacher, EndpointSpec):
        places = {"url": endpoints.public(teacher.url)}
    parts: dict[str, Spec] = {
        "data": recipe.data.model_copy(update={
            key: _public(source) for key in ("dataset", "unlabelled")
            if (source := getattr(recipe.data, key)) is not None
        }),
        "teacher": teacher.model_copy(update=places),
    }  # fmt: skip
    if recipe.augment is not None and recipe.augment.model is not None:
        language = {"model": _public(recipe.augment.model)}
        parts["augment"] = recipe.augment.model_copy(update=language)
    if recipe.student.model is not None:
        own = {"model": _public(recipe.student.model)}
        parts["student"] = recipe.student.model_copy(update=own)
    return recipe.model_copy(update=parts)


def transfer(recipe: Recipe, results: Mapping[str, Any]) -> str:
    """A sentence on the texts that the teacher alone labelled; empty where there were none."""
    if not recipe.transfer:
        return ""
    told = results["transfer"]
    counts = {"unlabelled": "unlabelled texts", "augmented": "altered copies of training texts"}
    found = [f"{told[part]:,} {words}" for part, words in counts.items() if told[part]]
    control = " The *control* is the same student without these, trained for as many steps."
    return (
        f"The student also learnt the teacher's outputs for {' and '.join(found) or 'no others'}, "
        f"which have no labels.{control if recipe.control else ''}"
    )


def public_text(recipe: Recipe, text: str) -> str:
    """A sentence about a run, likewise."""
    teacher = recipe.teacher
    others = [o.model for o in teacher.also] if isinstance(teacher, TeacherSpec) else []
    own = [] if teacher.source is None else [getattr(teacher, teacher.source)]
    for source in filter(None, (*own, recipe.student.model, *others)):
        text = text.replace(source, _public(source))
    return text


def dataset_name(recipe: Recipe) -> str:
    """What the data set is called: as the recipe says, or by its id's or path's last part."""
    return printable(recipe.card.dataset_name or _tail(recipe.data.dataset))


def plain(text: str) -> Markdown:
    """Markdown that reads as the text itself, on one line."""
    return Markdown(_SIGNS.sub(r"\\\g<0>", printable(text)))


def code(text: str) -> Markdown:
    """Markdown that reads as the text itself in a code span, on one line."""
    shown = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    padding = " " * (len(fence) > 1)
    return Markdown(f"{fence}{padding}{shown}{padding}{fence}")


def _set(value: Any) -> Any:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markdown) else value


def _indented(text: str) -> Markdown:
    """A block of code that nothing in it can end, as a fence can be ended by what it holds."""
    return Markdown("".join(f"    {printable(line)}\n" for line in text.splitlines()))


def _metadata(
    recipe: Recipe, student: Mapping[str, Any], task: Task, sources: Mapping[str, str]
) -> ModelCardData:
    labelled = recipe.data.label is not None
    on_hub = _is_hub_id(recipe.data.dataset)
    language = recipe.card.language
    teacher = public(recipe).teacher.title
    start = recipe.student.model or recipe.teacher.title
    return ModelCardData(
        language=printable(language) if isinstance(language, str) else [*map(printable, language)],
        license=printable(recipe.card.license),
        library_name="transformers",
        tags=["generated_from_trainer", "knowledge-distillation", "kd",
              *([f"teacher:{teacher}"] if recipe.white_box else [])],
        datasets=[recipe.data.dataset] if on_hub else None,
        metrics=[*dict.fromkeys(kind for kind, _ in _METRICS[task.name].values())]
        if labelled else None,
        base_model=start if _is_hub_id(start) else None,
        base_model_relation="finetune" if _is_hub_id(start) else None,
        pipeline_tag=_TASK[0],
        model_name=recipe.name,
        # Agreement with a teacher is no accuracy, and is not to be ranked among them.
        eval_results=_eval_results(recipe, student, task, sources) if labelled else None,
    )  # fmt: skip


def _eval_results(
    recipe: Recipe, student: Mapping[str, Any], task: Task, sources: Mapping[str, str]
) -> list[EvalResult]:
    name, config = dataset_name(recipe), recipe.data.config
    return [
        EvalResult(
            task_type=_TASK[0],
            task_name=_TASK[1],
            dataset_type=recipe.data.dataset if _is_hub_id(recipe.data.dataset) else name,
            dataset_name=name,
            dataset_config=config and printable(config),
            dataset_split=printable(sources.get(split, split)),
            metric_type=kind,
            metric_name=title,
            metric_value=round(float(figures[figure]), 6),
        )
        for split, figures in student["splits"].items()
        for figure, (kind, title) in _METRICS[task.name].items()
    ]


def _loss(loss: Any) -> str:
    settings = loss.model_dump(exclude={"kind"}, exclude_none=True)
    details = ", ".join(
        f"{key} {_setting(value)}" for key, value in settings.items() if value is not False
    )
    return f"{loss.kind.replace('_', ' ')} ({details})"


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return " to ".join(map(_setting, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _origin(recipe: Recipe, student: Mapping[str, Any]) -> Markdown:
    if recipe.student.model is not None:
        first = f"It starts from the pretrained model {_link(recipe.student.model)}."
        return Markdown(" ".join([first, *map(plain, student.get("besides", ()))]))
    return plain(student["origin"])


def _link(model: str) -> Markdown:
    if not _is_hub_id(model):
        return code(_public(model))
    return Markdown(f"[{plain(model)}](https://huggingface.co/{quote(model)})")


def _teacher_link(recipe: Recipe) -> Markdown:
    """What the student is a fine-tuned version of."""
    return _link(recipe.white_box.model if recipe.white_box else recipe.student.model or "")


def _dataset_link(recipe: Recipe) -> Markdown:
    name, source = plain(dataset_name(recipe)), recipe.data.dataset
    if not _is_hub_id(source):
        return name
    config = f", configuration {code(recipe.data.config)}" if recipe.data.config else ""
    return Markdown(f"[{name}](https://huggingface.co/datasets/{quote(source)}){config}")


def _is_hub_id(source: str) -> bool:
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True


def _public(source: str) -> str:
    """A Hub id or package as it is, and a path's last part."""
    whole = _is_hub_id(source) or source.startswith("package:")
    return printable(source if whole else _tail(source))


def _tail(path: str) -> str:
    """A path's last part: the others are this machine's own."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
