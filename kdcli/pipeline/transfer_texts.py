"""The transfer set: texts that the student learns from the teacher's outputs alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from kdcli.data import augmentation, column_access
from kdcli.data.checks import duplicates
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import RecipeError
from kdcli.losses.base import required_teacher_outputs
from kdcli.models import mask_filling
from kdcli.models.model_io import locate_model
from kdcli.pipeline import run_datasets
from kdcli.pipeline.stage import StageContext
from kdcli.progress import Reporter
from kdcli.recipe.augmentation import AugmentationConfig
from kdcli.recipe.black_box_teachers import PrecomputedTeacherConfig
from kdcli.recipe.schema import Recipe

if TYPE_CHECKING:
    from kdcli.data.augmentation import MaskedWords


def build_transfer_set(context: StageContext) -> dict[str, Any]:
    """Write the transfer set: columns `text` and, for pairs, `text_pair`.

    Returns:
        `unlabelled` and `augmented`, numbers of texts; `left_out`, number of duplicates dropped.
    """
    recipe = context.recipe
    dataset_splits = run_datasets.load_recipe_dataset(recipe, context.reporter)
    parts: dict[str, Dataset] = {}
    if recipe.data.unlabeled is not None:
        parts["unlabelled"] = run_datasets.load_texts_without_labels(
            recipe.data.unlabeled_data_config, context.reporter
        )
    if recipe.augment is not None:
        parts["augmented"] = _augment_training_texts(recipe.augment, dataset_splits, context)
    kept = _drop_known_texts(parts, dataset_splits)
    concatenate_datasets([*kept.values()]).save_to_disk(str(context.output))
    counts = {part: len(kept.get(part, ())) for part in ("unlabelled", "augmented")}
    left_out = sum(map(len, parts.values())) - sum(counts.values())
    context.reporter.info(
        f"The teacher alone labels {counts['unlabelled']:,} unlabelled and "
        f"{counts['augmented']:,} altered texts; {left_out:,} were there already."
    )
    return {**counts, "left_out": left_out}


def add_transfer_split(
    recipe: Recipe,
    dataset_splits: DatasetSplits,
    reporter: Reporter,
    *,
    allow_pickle: bool,
    load_weights: bool,
) -> tuple[DatasetSplits, int]:
    """Return the data with the split `transfer`, and the transfer set's maximal size.

    Raises:
        KdError: The unlabelled texts or the masked language model are missing or unusable, or the
            recipe has no use for texts without labels.
    """
    if not recipe.has_transfer_set:
        return dataset_splits, 0
    augment_config, max_texts = recipe.augment, 0
    recipe_key = "augment" if recipe.data.unlabeled is None else "data.unlabeled"
    if not required_teacher_outputs(recipe.distill.losses_for_task(dataset_splits.task)):
        raise RecipeError(
            f"{recipe_key}: no loss of distill.losses has the student learn from the teacher, "
            "and these texts have no labels.",
            "Add one, such as soft_targets.",
        )
    if recipe.distill.sampling == "balanced":
        raise RecipeError(
            f"{recipe_key}: distill.sampling: balanced draws texts by their labels, and these "
            "have none.",
            "Take class_weights: balanced.",
        )
    if recipe.data.unlabeled is not None:
        unlabelled = run_datasets.load_texts_without_labels(
            recipe.data.unlabeled_data_config, reporter
        )
        max_texts += len(unlabelled)
        dataset_splits = replace(
            dataset_splits,
            splits={**dataset_splits.splits, run_datasets.TRANSFER_SPLIT: unlabelled},
        )
    if augment_config is not None:
        max_texts += augment_config.copies * len(dataset_splits.splits["train"])
        if isinstance(recipe.teacher, PrecomputedTeacherConfig):
            raise RecipeError(
                "augment: a file has no scores for texts that are altered only now.",
                "Leave it out, or take a teacher that can be asked.",
            )
        if augment_config.model is not None and load_weights:
            mask_filling.load_masked_lm(
                locate_model(
                    augment_config.model, augment_config.revision, allow_pickle=allow_pickle
                )
            )
    return dataset_splits, max_texts


def _augment_training_texts(
    augment_config: AugmentationConfig, dataset_splits: DatasetSplits, context: StageContext
) -> Dataset:
    """Return augmented copies of the training texts."""
    train = dataset_splits.splits["train"]
    columns = column_access.text_column_names(train)
    rows = [
        row
        for batch in column_access.iterate_column_batches(train, *columns)
        for row in zip(*batch, strict=True)
    ]
    copies = [*augmentation.augment_texts(rows, augment_config, context.recipe.seed)]
    word_lists = [words for row in copies for words in row]
    texts = (
        _fill_masked_words(augment_config, word_lists, context)
        if augment_config.model
        else [*_join_words(word_lists)]
    )
    return Dataset.from_dict(
        {name: texts[column_index :: len(columns)] for column_index, name in enumerate(columns)}
    )


def _fill_masked_words(
    augment_config: AugmentationConfig, word_lists: Sequence["MaskedWords"], context: StageContext
) -> list[str]:
    assert augment_config.model is not None
    folder = locate_model(
        augment_config.model, augment_config.revision, allow_pickle=context.options.allow_pickle
    )
    model, tokenizer = mask_filling.load_masked_lm(folder)
    return mask_filling.fill_masked_words(
        model, tokenizer, word_lists, context.recipe.seed, context.reporter.advance
    )


def _join_words(word_lists: Sequence["MaskedWords"]) -> Iterator[str]:
    return (" ".join(word for word in words if word) for words in word_lists)


def _drop_known_texts(
    splits: dict[str, Dataset], dataset_splits: DatasetSplits
) -> dict[str, Dataset]:
    """Drop texts that are in the data or in an earlier part.

    Evaluation texts in the transfer set would make the student look better than it is.
    """
    known = np.concatenate(
        [duplicates.text_hashes(split) for split in dataset_splits.splits.values()]
    )
    kept = {}
    for part, split in splits.items():
        keys = duplicates.text_hashes(split)
        _, first = np.unique(keys, return_index=True)
        first = np.sort(first)
        kept[part] = split.select(first[~np.isin(keys[first], known)])
        known = np.concatenate([known, keys])
    return kept
