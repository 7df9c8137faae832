"""The rows that a model of this run trains or is measured on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdcli.data import encode, source
from kdcli.data.source import Corpus
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(recipe: Recipe, reporter: Reporter) -> Corpus:
    """The recipe's data, its peculiarities told to the user."""
    corpus = source.load(recipe.data, recipe.seed)
    for note in corpus.notes:
        reporter.say(note)
    return corpus


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
    limit = encode.length_limit(model.config, tokenizer, recipe.data.max_length)
    names: list[str] = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    rows: dict[str, Any] = {}
    for split in splits:
        rows[split] = encode.encode(corpus.splits[split], tokenizer, limit)
        cut = encode.count_truncated(corpus.splits[split], rows[split], tokenizer, limit)
        if cut:
            reporter.say(
                f"{cut:,} of {len(rows[split]):,} {split} texts were cut to {limit} tokens."
            )
        rows[split] = encode.with_model_labels(rows[split], corpus, names)
    return rows
