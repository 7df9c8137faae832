"""The rows that a model of this run trains or is measured on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import load_from_disk

from kdcli.data import encode, source
from kdcli.data.source import Corpus
from kdcli.models.source import labels_of
from kdcli.progress import Reporter
from kdcli.recipe.schema import MeasureSpec, Recipe
from kdcli.run import Job
from kdcli.teachers.asked import Setting

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    corpus = source.load(recipe.data, recipe.seed, to_train=to_train)
    for note in corpus.notes:
        reporter.say(note)
    return corpus


def with_transfer(corpus: Corpus, job: Job) -> Corpus:
    """The data with the split `transfer` of what the teacher alone labels, where there is any."""
    folder = job.inputs.get("transfer")
    if folder is None:
        return corpus
    return replace(corpus, splits={**corpus.splits, TRANSFER: load_from_disk(str(folder))})


def setting(job: Job, corpus: Corpus, folder: Path) -> Setting:
    """What a teacher that is a black box is given beside the texts.

    Args:
        job: The stage's.
        corpus: The texts.
        folder: The teacher's.
    """
    return Setting(corpus, job.recipe.data, folder, job.reporter, job.allow_pickle)


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
    """Each split in the model's own tokens and label ids; texts that were cut are counted.

    The tokenizer cuts at that end from now on, also where it is loaded without kd.
    """
    if side := encode.SIDES.get(recipe.data.truncate):
        tokenizer.truncation_side = side
        # Only what it was made with is saved.
        tokenizer.init_kwargs["truncation_side"] = side
    limit = encode.length_limit(model.config, tokenizer, recipe.data.max_length)
    names = labels_of(model.config)
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
