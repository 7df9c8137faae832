"""The transfer set: texts that the student learns from the teacher's outputs alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from kdcli.data import augment, pieces, repeats
from kdcli.data.source import Corpus
from kdcli.errors import RecipeError
from kdcli.models import filling
from kdcli.models.source import locate
from kdcli.progress import Reporter
from kdcli.recipe.augment import AugmentSpec
from kdcli.recipe.black_box import ScoresSpec
from kdcli.recipe.schema import Recipe
from kdcli.run import Job
from kdcli.stages import texts
from kdcli.training.objective import needs

if TYPE_CHECKING:
    from kdcli.data.augment import Words


def run(job: Job) -> dict[str, Any]:
    """Build the folder of the texts, in the columns `text` and, of pairs, `text_pair`.

    Returns:
        `unlabelled` and `augmented`, how many texts there are of each; `left_out`, how many were
        there already, in the data or before.
    """
    recipe, corpus = job.recipe, texts.load(job.recipe, job.reporter)
    parts: dict[str, Dataset] = {}
    if recipe.data.unlabelled is not None:
        parts["unlabelled"] = texts.unlabelled(recipe.data.of_unlabelled, job.reporter)
    if recipe.augment is not None:
        parts["augmented"] = _altered(recipe.augment, corpus, job)
    kept = _new(parts, corpus)
    concatenate_datasets([*kept.values()]).save_to_disk(str(job.output))
    counts = {part: len(kept.get(part, ())) for part in ("unlabelled", "augmented")}
    left_out = sum(map(len, parts.values())) - sum(counts.values())
    job.reporter.say(
        f"The teacher alone labels {counts['unlabelled']:,} unlabelled and "
        f"{counts['augmented']:,} altered texts; {left_out:,} were there already."
    )
    return {**counts, "left_out": left_out}


def beforehand(
    recipe: Recipe, corpus: Corpus, reporter: Reporter, *, allow_pickle: bool, weights: bool
) -> tuple[Corpus, int]:
    """The data with its unlabelled texts as split `transfer`; how many there are with altered ones.

    Raises:
        KdError: The unlabelled texts or the masked language model are missing or unusable, or the
            recipe has no use for texts without labels.
    """
    if not recipe.transfer:
        return corpus, 0
    spec, rows = recipe.augment, 0
    part = "augment" if recipe.data.unlabelled is None else "data.unlabelled"
    if not needs(recipe.distill.terms(corpus.task)):
        raise RecipeError(
            f"{part}: no loss of distill.losses has the student learn from the teacher, and these "
            "texts have no labels.",
            "Add one, such as soft_targets.",
        )
    if recipe.distill.sampling == "balanced":
        raise RecipeError(
            f"{part}: distill.sampling: balanced draws texts by their labels, and these have none.",
            "Take class_weights: balanced.",
        )
    if recipe.data.unlabelled is not None:
        unlabelled = texts.unlabelled(recipe.data.of_unlabelled, reporter)
        rows += len(unlabelled)
        corpus = replace(corpus, splits={**corpus.splits, texts.TRANSFER: unlabelled})
    if spec is not None:
        rows += spec.copies * len(corpus.splits["train"])
        if isinstance(recipe.teacher, ScoresSpec):
            raise RecipeError(
                "augment: a file has no scores for texts that are altered only now.",
                "Leave it out, or take a teacher that can be asked.",
            )
        if spec.model is not None and weights:
            filling.load(locate(spec.model, spec.revision, allow_pickle=allow_pickle))
    return corpus, rows


def _altered(spec: AugmentSpec, corpus: Corpus, job: Job) -> Dataset:
    """Altered copies of the training texts."""
    train = corpus.splits["train"]
    columns = pieces.text_columns(train)
    rows = [row for piece in pieces.lists(train, *columns) for row in zip(*piece, strict=True)]
    copies = [*augment.copies(rows, spec, job.recipe.seed)]
    flat = [words for row in copies for words in row]
    written = _filled(spec, flat, job) if spec.model else [*_joined(flat)]
    return Dataset.from_dict(
        {name: written[place :: len(columns)] for place, name in enumerate(columns)}
    )


def _filled(spec: AugmentSpec, every: Sequence["Words"], job: Job) -> list[str]:
    assert spec.model is not None
    folder = locate(spec.model, spec.revision, allow_pickle=job.allow_pickle)
    model, tokenizer = filling.load(folder)
    return filling.fill(model, tokenizer, every, job.recipe.seed, job.reporter.advance)


def _joined(every: Sequence["Words"]) -> Iterator[str]:
    return (" ".join(word for word in words if word) for words in every)


def _new(parts: dict[str, Dataset], corpus: Corpus) -> dict[str, Dataset]:
    """Each part without what is in the data or in a part before.

    Measured on texts that it has seen, the student would look better than it is.
    """
    known = np.concatenate([repeats.keys(split) for split in corpus.splits.values()])
    kept = {}
    for part, split in parts.items():
        keys = repeats.keys(split)
        _, first = np.unique(keys, return_index=True)
        first = np.sort(first)
        kept[part] = split.select(first[~np.isin(keys[first], known)])
        known = np.concatenate([known, keys])
    return kept
