"""The student learns from the teacher's outputs and the data's labels."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from datasets import concatenate_datasets
from transformers import set_seed

from kdcli import processes
from kdcli.data.encode import beside, labels_of
from kdcli.data.source import Corpus
from kdcli.errors import MendableError
from kdcli.models import layers, source
from kdcli.models.padding import collator_for
from kdcli.progress import Tally
from kdcli.recipe.fit import FitSpec
from kdcli.recipe.losses import LossSpec, of_labels
from kdcli.run import Job
from kdcli.stages import texts
from kdcli.stages.fitting import fit
from kdcli.tasks import Task
from kdcli.training import remembered, signals, states
from kdcli.training.fit import versions
from kdcli.training.hard import hard_labels
from kdcli.training.objective import LIVE, Objective, Shapes, needs

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLE = 100


def run(job: Job) -> dict[str, Any]:
    """Build the trained student's folder.

    Returns:
        `history`, a row for each epoch; `parameters`; `versions` of what trained it.
    """
    return _train(job, "distill", job.recipe.distill.terms, transfer=True)


def run_control(job: Job) -> dict[str, Any]:
    """Build the folder of the same student, trained without the transfer set.

    Returns:
        The same as `run`.
    """
    return _train(job, "control", job.recipe.distill.terms)


def run_baseline(job: Job) -> dict[str, Any]:
    """Build the folder of the same student, trained on the labels alone with the same budget.

    Returns:
        The same as `run`.
    """
    return _train(job, "baseline", of_labels)


def _train(
    job: Job,
    stage: str,
    terms_of: Callable[[Task], Sequence[LossSpec]],
    *,
    transfer: bool = False,
) -> dict[str, Any]:
    recipe = job.recipe
    student = source.load_classifier(job.inputs["student"])
    tokenizer = source.load_tokenizer(job.inputs["student"])
    corpus = texts.with_transfer(texts.load(recipe, job.reporter), job)
    corpus = texts.decided(corpus, job)
    texts.align(recipe, corpus, student, tokenizer, "The student")
    task, terms = corpus.task, terms_of(corpus.task)
    beyond = texts.TRANSFER in corpus.splits
    parts = ["train", "validation"] + [texts.TRANSFER] * (transfer and beyond)
    rows = texts.encoded(recipe, corpus, student, tokenizer, splits=parts, reporter=job.reporter)
    if "logits" in needs(terms):
        outputs = signals.read(job.inputs["outputs"])
        rows = {part: beside(rows[part], outputs[part]) for part in parts}
    if texts.TRANSFER in rows:
        rows["train"] = concatenate_datasets([rows["train"], rows.pop(texts.TRANSFER)])
    asked = needs(terms)
    teacher, shapes, on_disk = None, None, None
    if asked & LIVE:
        teacher, shapes = _beside(student, tokenizer, corpus, job)
        for model in (student, teacher):
            states.prepare(model, asked)
    labels = labels_of(rows["train"])
    hard = hard_labels(recipe.distill, labels, student.config.num_labels, task)
    # Projections are drawn at random: not from where earlier stages have left the generator.
    set_seed(recipe.student_seed)
    objective = Objective(terms, shapes, hard, task)
    if teacher is not None and asked & LIVE == {"hidden"}:
        teacher, rows, on_disk = _remembered(teacher, tokenizer, rows, objective, job)
    spec: FitSpec = recipe.distill
    if beyond and not transfer:
        spec = _of_as_many_steps(spec, corpus)
    history = fit(
        job,
        stage,
        student,
        tokenizer,
        rows=rows,
        spec=spec,
        objective=objective,
        teacher=teacher,
        remembered=on_disk,
        seed=recipe.student_seed,
    )
    source.save(student, tokenizer, job.output)
    return {
        "history": history,
        "parameters": source.count_parameters(student),
        "versions": versions(),
    }


def _of_as_many_steps(spec: FitSpec, corpus: Corpus) -> FitSpec:
    """The training of a student that learns from fewer texts: in more epochs."""
    alone = len(corpus.splits["train"])
    epochs = spec.epochs * spec.steps(alone + len(corpus.splits[texts.TRANSFER]))
    return spec.model_copy(update={"epochs": round(epochs / spec.steps(alone))})


def _beside(
    student: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", corpus: Corpus, job: Job
) -> tuple["PreTrainedModel", Shapes]:
    """The teacher, to run beside the student, and which layers of the two belong together."""
    teacher = source.load_classifier(job.inputs["teacher"])
    sample = corpus.splits["train"][:_SAMPLE]["text"]
    own, teachers = (
        t(sample)["input_ids"] for t in (tokenizer, source.load_tokenizer(job.inputs["teacher"]))
    )
    if own != teachers:
        raise MendableError(
            "distill.losses: teacher and student cut texts into other tokens, so that their states "
            "can't be compared.",
            "Use losses of logits, such as soft_targets, or cut the student from the teacher.",
        )
    depth = layers.stacks(teacher)[0].depth
    cut = job.results["student"]["layers"]
    shapes = Shapes(
        width=student.config.hidden_size,
        teacher_width=teacher.config.hidden_size,
        layers=tuple(cut) or layers.spread(layers.stacks(student)[0].depth, depth),
        teacher_depth=depth,
    )
    return teacher, shapes


def _remembered(
    teacher: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: dict[str, "Dataset"],
    objective: Objective,
    job: Job,
) -> tuple["PreTrainedModel | None", dict[str, "Dataset"], remembered.Remembered | None]:
    """The teacher's hidden states on disk in its place, where there is room for them.

    Reading them is quicker than computing them, and each epoch after the first reads again.

    Returns:
        The teacher, where it has to run beside the student; the rows, numbered where it hasn't;
        its states.
    """
    count = len(rows["train"])
    starts = {"train": 0, "validation": count}
    numbered = {
        part: split.add_column(remembered.ROW, list(range(starts[part], starts[part] + len(split))))
        for part, split in rows.items()
    }
    whole = concatenate_datasets([numbered[part].remove_columns("labels") for part in starts])
    places, width = objective.teacher_places, teacher.config.hidden_size
    if not remembered.fits(whole, places, width, job.scratch):
        return teacher, rows, None
    collate, advance = collator_for(teacher, tokenizer), Tally(job.reporter, len(whole))
    # One process writes, and all of them read.
    processes.from_first(
        lambda: remembered.write(teacher, collate, whole, places, job.scratch, advance=advance)
    )
    return None, numbered, remembered.read(whole, places, width, job.scratch)
