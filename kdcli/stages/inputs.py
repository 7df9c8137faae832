"""What a run is given: looked at as a whole before anything is written or trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli import machine
from kdcli.data.folds import folds
from kdcli.data.source import Corpus
from kdcli.evaluation.splits import measurable
from kdcli.models import layers, reshape, source, surgery
from kdcli.models.padding import padding_note
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import OneTeacherSpec, TeacherSpec
from kdcli.stages import narrowing, texts, transfer
from kdcli.stages.student import shape
from kdcli.teachers import kinds
from kdcli.teachers.asked import Setting
from kdcli.training import hard, terms, trackers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Inputs:
    """The texts, and the models without their weights.

    Attributes:
        corpus: The texts.
        tokenizer: The teacher's, or the student's where the teacher is a black box.
        teacher: None where it is a black box.
        others: What teaches beside it.
        student: What is to learn.
        transfer: How many texts at most the teacher alone labels.
    """

    corpus: Corpus
    tokenizer: "PreTrainedTokenizerBase"
    teacher: "PreTrainedModel | None"
    others: tuple["PreTrainedModel", ...]
    student: "PreTrainedModel"
    transfer: int

    def student_by(self, recipe: Recipe, *, allow_pickle: bool = False) -> "PreTrainedModel":
        """Another student of this teacher, without weights.

        Raises:
            KdError: The teacher can't be cut so, or the pretrained student can't be used.
        """
        return _student(
            recipe,
            self.teacher,
            self.tokenizer,
            self.corpus,
            allow_pickle=allow_pickle,
            weights=False,
        )[0]


def look(
    recipe: Recipe,
    reporter: Reporter,
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    allow_endpoints: Sequence[str] = (),
    weights: bool = True,
) -> Inputs:
    """Everything that a run needs of data and models, as far as it can be known beforehand.

    Args:
        recipe: Names them.
        reporter: Told what the user should know of them.
        allow_pickle: Whether the models' weights may be a pickle.
        allow_code: Whether the recipe's function may be imported.
        allow_endpoints: Where the recipe's texts may be sent to, each HOST or HOST=VARIABLE.
        weights: Whether to load the weights too, to see that they are sound.

    Raises:
        KdError: Data, models or trackers are missing or unusable, or don't go together, or the
            machine is too small for them.
    """
    trackers.check(recipe.report_to)
    corpus = texts.load(recipe, reporter)
    terms.refuse_unfit(recipe.distill.terms(corpus.task), corpus.task)
    hard.refuse_unfit(recipe.distill, corpus.task, "distill")
    whole, beyond = transfer.beforehand(
        recipe, corpus, reporter, allow_pickle=allow_pickle, weights=weights
    )
    teacher, tokenizer, others, loaded = None, None, [], None
    if not isinstance(recipe.teacher, TeacherSpec):
        setting = Setting(
            whole,
            recipe.data,
            Path(),
            reporter,
            allow_pickle,
            allow_code,
            tuple(allow_endpoints),
        )
        kinds.check(recipe.teacher, setting, recipe.distill.terms(corpus.task))
        _refuse_too_many(corpus, len(corpus.labels))
    else:
        seen = partial(
            _teacher, recipe=recipe, corpus=corpus, allow_pickle=allow_pickle, weights=weights
        )
        config, tokenizer, loaded = seen(recipe.teacher)
        # Only the teacher that is cut stays in memory.
        others = [seen(one)[0] for one in recipe.teacher.also]
        for one in (recipe.teacher, *recipe.teacher.also):
            if one.folds is not None:
                folds(corpus.splits["train"], corpus.task, one.folds, recipe.seed)
        teacher = reshape.skeleton(config)
        if note := padding_note(teacher, "The teacher"):
            reporter.say(note)
    measurable(recipe.evaluate, corpus)
    student, own = _student(
        recipe, loaded or teacher, tokenizer, corpus, allow_pickle=allow_pickle, weights=weights
    )
    if teacher is None:
        return Inputs(corpus, own, None, (), student, beyond)
    sizes = [source.count_parameters(model) for model in (student, teacher)]
    if sizes[0] >= sizes[1]:
        reporter.say(
            "The student is no smaller than its teacher: {:.2f} M parameters to {:.2f} M.".format(
                *(size / 1e6 for size in sizes)
            )
        )
    beside = tuple(reshape.skeleton(config) for config in others)
    return Inputs(corpus, tokenizer or own, teacher, beside, student, beyond)


def _teacher(
    spec: OneTeacherSpec, recipe: Recipe, corpus: Corpus, *, allow_pickle: bool, weights: bool
) -> tuple["PretrainedConfig", "PreTrainedTokenizerBase", "PreTrainedModel | None"]:
    """A teacher's configuration, with the labels it is to have, its tokenizer, and itself."""
    folder = source.locate(spec.model, spec.revision, allow_pickle=allow_pickle)
    config = source.load_config(folder)
    finished = spec.fine_tune is None
    if spec.fine_tune is None:
        parts = {"train", "validation", *recipe.evaluate.splits} & corpus.splits.keys()
        used = {label for part in parts for label in corpus.present(part)}
        source.refuse_other_task(config, corpus.task, f"The teacher {spec.model}")
        corpus.match(source.labels_of(config), sorted(used))
    else:
        hard.refuse_unfit(spec.fine_tune, corpus.task, "teacher.fine_tune")
        source.set_labels(config, corpus.labels, corpus.task.name)
    _refuse_too_many(corpus, config.num_labels)
    tokenizer, model = source.load_tokenizer(folder), None
    if weights:
        new = () if finished else (corpus.labels, corpus.task.name)
        model = source.load_classifier(folder, *new, fresh_head=not finished)
        texts.align(recipe, corpus, model, tokenizer, f"The teacher {spec.model}")
    return config, tokenizer, model


def _refuse_too_many(corpus: Corpus, labels: int) -> None:
    # Linux promises more memory than there is, and ends a process that comes to use it.
    rows = sum(len(corpus.splits[part]) for part in ("train", "validation"))
    machine.require_memory(
        4 * rows * labels,
        f"Asking the teacher about {rows:,} texts and {labels:,} labels",
        "Take fewer texts or labels, or a larger machine.",
    )


def _student(
    recipe: Recipe,
    teacher: "PreTrainedModel | None",
    tokenizer: "PreTrainedTokenizerBase | None",
    corpus: Corpus,
    *,
    allow_pickle: bool,
    weights: bool,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The student without weights, and its tokenizer."""
    spec = recipe.student
    wanted = texts.strings(corpus.splits["train"]) if spec.reads_texts else ()
    if spec.model is None:
        assert teacher is not None and tokenizer is not None, "a recipe of a black box names one"
        keep = layers.choose(spec, layers.stacks(teacher))
        narrower = narrowing.plan(spec, teacher, tokenizer, wanted)
        form, student = shape(spec, teacher, narrower, keep)
        if weights and not narrower.fresh:
            # Layers that make no model are refused now, not when the teacher has been trained.
            surgery.cut(teacher, keep, form)
        return student, tokenizer
    folder = source.locate(spec.model, spec.revision, allow_pickle=allow_pickle)
    config, tokenizer = source.load_config(folder), source.load_tokenizer(folder)
    labels, task = corpus.labels, corpus.task.name
    if teacher is not None:
        labels, task = source.labels_of(teacher.config), teacher.config.problem_type
    source.set_labels(config, labels, task)
    if weights:
        model = source.load_classifier(folder, labels, task, fresh_head=True)
        texts.align(recipe, corpus, model, tokenizer, f"The student {spec.model}")
    narrower = narrowing.plan(spec, reshape.skeleton(config), tokenizer, wanted)
    return reshape.skeleton(narrower.config), tokenizer
