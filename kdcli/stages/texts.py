"""The rows that a model of this run trains or is measured on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data import encode, saved, source, targets
from kdcli.data.encode import TEACHER_LOGITS
from kdcli.data.labels import is_generic
from kdcli.data.source import Corpus
from kdcli.errors import DataError
from kdcli.models import source as models
from kdcli.models.padding import align_padding
from kdcli.models.positions import length_limit
from kdcli.progress import Reporter
from kdcli.recipe.data import DataSpec
from kdcli.recipe.schema import MeasureSpec, Recipe
from kdcli.recipe.teacher import TeacherSpec
from kdcli.run import Job
from kdcli.tasks import REGRESSION, SINGLE_LABEL, TASKS, Task
from kdcli.teachers import kinds
from kdcli.teachers.asked import Setting
from kdcli.training import signals

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TRANSFER = "transfer"
_CUT = {
    None: "cut to {} tokens",
    "head": "cut to their first {} tokens",
    "tail": "cut to their last {} tokens",
    "both": "cut to {} tokens, half of them their first and half their last",
    "windows": "read in windows of {} tokens",
}


def load(recipe: Recipe | MeasureSpec, reporter: Reporter, *, to_train: bool = True) -> Corpus:
    """The recipe's data, its peculiarities told to the user; see `kdcli.data.source.load`."""
    named = None if recipe.data.label is not None else _named_by_teacher(recipe)
    corpus = source.load(recipe.data, recipe.seed, to_train=to_train, named=named)
    for note in corpus.notes:
        reporter.say(note)
    own = None if isinstance(recipe, MeasureSpec) else recipe.white_box
    if own is None or own.fine_tune is not None or not is_generic(corpus.labels):
        return corpus
    return corpus.named_by(models.labels_of(_config(own)))


def unlabelled(spec: DataSpec, reporter: Reporter) -> "Dataset":
    """Texts without labels, likewise; see `kdcli.data.source.unlabelled`."""
    notes: list[str] = []
    found = source.unlabelled(spec, notes)
    for note in notes:
        reporter.say(note)
    return found


def _named_by_teacher(recipe: Recipe | MeasureSpec) -> tuple[tuple[str, ...], Task]:
    """The labels that the teacher gives to texts without labels, and what they are."""
    if isinstance(recipe, MeasureSpec):
        raise DataError(
            "data.label is null: there are no labels to measure by.",
            "Name texts that have some: --data, --label.",
        )
    stated = SINGLE_LABEL if recipe.data.task is None else TASKS[recipe.data.task]
    if recipe.black_box is not None:
        return kinds.labels(recipe.black_box, recipe.data), stated
    own = recipe.white_box
    assert own is not None
    config = _config(own)
    if recipe.data.task is None:
        usual = REGRESSION if config.num_labels == 1 else SINGLE_LABEL
        stated = TASKS.get(config.problem_type or "", usual)
    return models.labels_of(config), stated


def _config(teacher: TeacherSpec) -> "PretrainedConfig":
    # Only the configuration is read here, which can't run code, whatever the weights are.
    return models.load_config(models.locate(teacher.model, teacher.revision, allow_pickle=True))


def decided(corpus: Corpus, job: Job) -> Corpus:
    """The data with what the teacher says as its labels, where it has none of its own.

    Lee 2013 (Pseudo-Label), with a teacher in place of the model itself.
    """
    if corpus.labelled:
        return corpus
    outputs = signals.read(job.inputs["outputs"])
    found = dict(corpus.splits)
    for part in found.keys() & outputs.keys():
        said = corpus.task.decide(np.asarray(outputs[part][TEACHER_LOGITS]))
        found[part] = targets.labelled(found[part], said, corpus.labels, corpus.task)
    return replace(corpus, splits=found)


def with_transfer(corpus: Corpus, job: Job) -> Corpus:
    """The data with the split `transfer` of what the teacher alone labels, where there is any."""
    folder = job.inputs.get("transfer")
    if folder is None:
        return corpus
    return replace(corpus, splits={**corpus.splits, TRANSFER: saved.load(folder)})


def setting(job: Job, corpus: Corpus, folder: Path) -> Setting:
    """What a teacher that is a black box is given beside the texts.

    Args:
        job: The stage's.
        corpus: The texts.
        folder: The teacher's.
    """
    return Setting(
        corpus,
        job.recipe.data,
        folder,
        job.reporter,
        job.allow_pickle,
        job.allow_code,
        job.allow_endpoints,
    )


def align(
    recipe: Recipe,
    corpus: Corpus,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    name: str,
) -> None:
    """Make a model read the run's texts as the recipe says, and in a batch as each alone.

    The tokenizer cuts texts at the recipe's length, and at its end, from now on, also where it is
    loaded without kd.

    Raises:
        ModelError: It can't: see `kdcli.models.padding.align_padding`.
    """
    limit = length_limit(model, tokenizer, recipe.data.max_length)
    tokenizer.model_max_length = limit
    if side := encode.SIDES.get(recipe.data.truncate):
        tokenizer.truncation_side = side
        # Only what it was made with is saved.
        tokenizer.init_kwargs["truncation_side"] = side
    some = encode.sample_columns(corpus.splits["train"])
    align_padding(model, tokenizer, name, some, limit=limit, keep=recipe.data.truncate)


def strings(split: "Dataset") -> list[str]:
    """The texts of a split, those of a pair one by one."""
    names = [name for name in ("text", "text_pair") if name in split.column_names]
    return [text for name in names for text in split[name]]


def encoded(
    recipe: Recipe,
    corpus: Corpus,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    splits: Sequence[str],
    reporter: Reporter,
) -> dict[str, "Dataset"]:
    """Each split in the model's own tokens and label ids; texts that were cut are counted."""
    limit = length_limit(model, tokenizer, recipe.data.max_length)
    names = models.labels_of(model.config)
    rows: dict[str, Any] = {}
    for split in splits:
        rows[split] = encode.encode(corpus.splits[split], tokenizer, limit, recipe.data.truncate)
        cut = encode.count_truncated(corpus.splits[split], rows[split], tokenizer, limit)
        if cut:
            reporter.say(
                f"{cut:,} of {len(corpus.splits[split]):,} {split} texts were "
                f"{_CUT[recipe.data.truncate].format(limit)}."
            )
        rows[split] = encode.with_model_labels(rows[split], corpus, names)
    return rows
