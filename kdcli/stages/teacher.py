"""The teacher: a backbone fine-tuned on the data, or a classifier taken as it is."""

import json
from typing import TYPE_CHECKING, Any

from transformers import set_seed

from kdcli import processes
from kdcli.data.encode import labels_of
from kdcli.data.labels import explain_match, is_generic
from kdcli.data.source import Corpus
from kdcli.models import source
from kdcli.recipe.black_box import BlackBox
from kdcli.recipe.losses import of_labels
from kdcli.recipe.teacher import TeacherSpec
from kdcli.run import Job
from kdcli.stages import texts
from kdcli.stages.fitting import fit
from kdcli.teachers import kinds
from kdcli.training.hard import hard_labels
from kdcli.training.objective import Objective

ABOUT = "teacher.json"

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run(job: Job) -> dict[str, Any]:
    """Build the teacher's folder.

    Returns:
        `history`, a row for each epoch (empty where nothing was trained); `parameters`, where it
        is a model; `task`.
    """
    corpus, teacher = texts.load(job.recipe, job.reporter), job.recipe.teacher
    history: list[dict[str, Any]] = []
    if not isinstance(teacher, TeacherSpec):
        return _black_box(teacher, corpus, job)
    if teacher.fine_tune is None:
        folder = source.locate(teacher.model, teacher.revision, allow_pickle=job.allow_pickle)
        model, tokenizer = source.load_classifier(folder), source.load_tokenizer(folder)
        _agree_on_labels(model, corpus, job)
        texts.align(job.recipe, corpus, model, tokenizer, "The teacher")
    else:
        model, tokenizer, history = fine_tuned(job, "teacher", corpus)
    source.save(model, tokenizer, job.output)
    return {
        "history": history,
        "parameters": source.count_parameters(model),
        "task": corpus.task.name,
    }


def fine_tuned(
    job: Job, stage: str, corpus: Corpus
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, list[dict[str, Any]]]":
    """The recipe's teacher with a head of its own, fine-tuned.

    Args:
        job: Says which model, and how.
        stage: What the logs call it.
        corpus: The texts.

    Returns:
        Model, tokenizer and the training's table.
    """
    spec = job.recipe.white_box
    assert spec is not None and spec.fine_tune is not None
    folder = source.locate(spec.model, spec.revision, allow_pickle=job.allow_pickle)
    seed = job.recipe.seed if spec.seed is None else spec.seed
    set_seed(seed)
    # Where labels are weighed to count alike there and not there, odds are even.
    even = spec.fine_tune.class_weights == "balanced"
    prior = None if even else corpus.prior(corpus.labels)
    model = source.load_classifier(
        folder, corpus.labels, corpus.task.name, fresh_head=True, prior=prior
    )
    tokenizer = source.load_tokenizer(folder)
    texts.align(job.recipe, corpus, model, tokenizer, "The teacher")
    parts = ("train", "validation")
    rows = texts.encoded(job.recipe, corpus, model, tokenizer, splits=parts, reporter=job.reporter)
    task, labels = corpus.task, labels_of(rows["train"])
    hard = hard_labels(spec.fine_tune, labels, len(corpus.labels), task)
    objective = Objective(of_labels(task), hard=hard, task=task)
    history = fit(
        job, stage, model, tokenizer, rows=rows, spec=spec.fine_tune, objective=objective, seed=seed
    )
    return model, tokenizer, history


def _black_box(box: BlackBox, corpus: Corpus, job: Job) -> dict[str, Any]:
    about = {"teacher": box.title, "labels": corpus.labels}

    def fit() -> None:
        job.output.mkdir()
        kinds.fit(box, texts.setting(job, corpus, job.output))
        text = json.dumps(about, indent=2, ensure_ascii=False)
        (job.output / ABOUT).write_text(text + "\n", encoding="utf-8")

    processes.from_first(fit)
    return {"history": [], "task": corpus.task.name}


def _agree_on_labels(model: "PreTrainedModel", corpus: Corpus, job: Job) -> None:
    source.refuse_other_task(model.config, corpus.task, "The teacher")
    names = source.labels_of(model.config)
    places = corpus.match(names, corpus.present("train"))
    if why := explain_match(corpus.labels, names):
        job.reporter.say(f"The teacher's {why}.")
    if is_generic(names) and sorted(places) == [*range(len(names))]:
        names = tuple(corpus.labels[places.index(output)] for output in range(len(names)))
    source.set_labels(model.config, names, corpus.task.name)
