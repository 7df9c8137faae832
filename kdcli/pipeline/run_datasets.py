"""The rows that a model of this run trains or is measured on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data import column_access, dataset_loading
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.labels import label_arrays
from kdcli.data.labels.label_matching import are_default_label_names, map_labels_to_model
from kdcli.data.readers import saved_dataset
from kdcli.data.tokenization import tokenize
from kdcli.errors import DataError
from kdcli.models import model_io as models
from kdcli.models.padding import align_padding
from kdcli.models.sequence_length import get_max_length
from kdcli.pipeline.stage import StageContext
from kdcli.progress import Reporter
from kdcli.recipe.data import DataConfig
from kdcli.recipe.schema import EvaluateCommandConfig, Recipe
from kdcli.recipe.teacher import ClassifierTeacherConfig
from kdcli.tasks import REGRESSION, SINGLE_LABEL, TASKS, Task
from kdcli.teachers import registry
from kdcli.teachers.base import BlackBoxContext
from kdcli.training import teacher_logits
from kdcli.training.teacher_logits import TEACHER_LOGITS

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TRANSFER_SPLIT = "transfer"
_TRUNCATION_NOTES = {
    None: "cut to {} tokens",
    "head": "cut to their first {} tokens",
    "tail": "cut to their last {} tokens",
    "both": "cut to {} tokens, half of them their first and half their last",
    "windows": "read in windows of {} tokens",
}


def load_recipe_dataset(
    recipe: Recipe | EvaluateCommandConfig, reporter: Reporter, *, for_training: bool = True
) -> DatasetSplits:
    """The recipe's data, its peculiarities told to the user; see `kdcli.data.source.load`."""
    named = None if recipe.data.label is not None else _labels_from_teacher(recipe)
    corpus = dataset_loading.load_dataset_splits(
        recipe.data, recipe.seed, require_train=for_training, teacher_labels=named
    )
    for note in corpus.notes:
        reporter.info(note)
    own = None if isinstance(recipe, EvaluateCommandConfig) else recipe.white_box_teacher
    if own is None or own.fine_tune is not None or not are_default_label_names(corpus.label_names):
        return corpus
    return corpus.with_model_label_names(models.get_label_names(_load_teacher_config(own)))


def load_unlabeled_texts(data_config: DataConfig, reporter: Reporter) -> "Dataset":
    """Texts without labels, likewise; see `kdcli.data.source.unlabelled`."""
    notes: list[str] = []
    found = dataset_loading.load_unlabeled_texts(data_config, notes)
    for note in notes:
        reporter.info(note)
    return found


def _labels_from_teacher(recipe: Recipe | EvaluateCommandConfig) -> tuple[tuple[str, ...], Task]:
    """The labels that the teacher gives to texts without labels, and what they are."""
    if isinstance(recipe, EvaluateCommandConfig):
        raise DataError(
            "data.label is null: there are no labels to measure by.",
            "Name texts that have some: --data, --label.",
        )
    stated = SINGLE_LABEL if recipe.data.task is None else TASKS[recipe.data.task]
    if recipe.black_box_teacher is not None:
        return registry.labels_named_by_teacher(recipe.black_box_teacher, recipe.data), stated
    own = recipe.white_box_teacher
    assert own is not None
    config = _load_teacher_config(own)
    if recipe.data.task is None:
        usual = REGRESSION if config.num_labels == 1 else SINGLE_LABEL
        stated = TASKS.get(config.problem_type or "", usual)
    return models.get_label_names(config), stated


def _load_teacher_config(teacher: ClassifierTeacherConfig) -> "PretrainedConfig":
    # Only the configuration is read here, which can't run code, whatever the weights are.
    return models.load_config(
        models.locate_model(teacher.model, teacher.revision, allow_pickle=True)
    )


def load_stage_dataset(context: StageContext, *, with_transfer: bool = True) -> DatasetSplits:
    """Load the data of a stage after `outputs`: the teacher's labels where it has none.

    Args:
        context: The stage's context.
        with_transfer: Add the transfer set, if there is one, as a split.
    """
    dataset_splits = load_recipe_dataset(context.recipe, context.reporter)
    if with_transfer:
        dataset_splits = with_transfer_set(dataset_splits, context)
    return with_pseudo_labels(dataset_splits, context)


def with_pseudo_labels(dataset_splits: DatasetSplits, context: StageContext) -> DatasetSplits:
    """The data with what the teacher says as its labels, where it has none of its own.

    Lee 2013 (Pseudo-Label), with a teacher in place of the model itself.
    """
    if dataset_splits.has_labels:
        return dataset_splits
    outputs = teacher_logits.load_teacher_logits(context.artifacts["outputs"])
    found = dict(dataset_splits.splits)
    for part in found.keys() & outputs.keys():
        said = dataset_splits.task.predict(np.asarray(outputs[part][TEACHER_LOGITS]))
        found[part] = label_arrays.label_with_predictions(
            found[part], said, dataset_splits.label_names, dataset_splits.task
        )
    return replace(dataset_splits, splits=found)


def with_transfer_set(dataset_splits: DatasetSplits, context: StageContext) -> DatasetSplits:
    """The data with the split `transfer` of what the teacher alone labels, where there is any."""
    folder = context.artifacts.get("transfer")
    if folder is None:
        return dataset_splits
    return replace(
        dataset_splits,
        splits={**dataset_splits.splits, TRANSFER_SPLIT: saved_dataset.load_saved_dataset(folder)},
    )


def black_box_context(
    context: StageContext, dataset_splits: DatasetSplits, folder: Path
) -> BlackBoxContext:
    """What a teacher that is a black box is given beside the texts.

    Args:
        context: The stage's.
        dataset_splits: The texts.
        folder: The teacher's.
    """
    return BlackBoxContext(
        dataset_splits,
        context.recipe.data,
        folder,
        context.reporter,
        context.options.allow_pickle,
        context.options.allow_code,
        context.options.allow_endpoints,
    )


def configure_tokenizer_and_padding(
    recipe: Recipe,
    dataset_splits: DatasetSplits,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    model_description: str,
) -> None:
    """Make a model read the run's texts as the recipe says, and in a batch as each alone.

    The tokenizer cuts texts at the recipe's length, and at its end, from now on, also where it is
    loaded without kd.

    Raises:
        ModelError: It can't: see `kdcli.models.padding.align_padding`.
    """
    limit = get_max_length(model, tokenizer, recipe.data.max_length)
    tokenizer.model_max_length = limit
    if side := tokenize.TRUNCATION_SIDES.get(recipe.data.truncation):
        tokenizer.truncation_side = side
        # Only what it was made with is saved.
        tokenizer.init_kwargs["truncation_side"] = side
    some = column_access.sample_texts(dataset_splits.splits["train"])
    align_padding(
        model,
        tokenizer,
        model_description,
        some,
        max_length=limit,
        truncation=recipe.data.truncation,
    )


def all_texts(split: "Dataset") -> list[str]:
    """The texts of a split, those of a pair one by one."""
    return [text for name in column_access.text_column_names(split) for text in split[name]]


def tokenize_splits(
    recipe: Recipe,
    dataset_splits: DatasetSplits,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    splits: Sequence[str],
    reporter: Reporter,
) -> dict[str, "Dataset"]:
    """Each split in the model's own tokens and label ids; texts that were cut are counted."""
    limit = get_max_length(model, tokenizer, recipe.data.max_length)
    names = models.get_label_names(model.config)
    rows: dict[str, Any] = {}
    for split in splits:
        rows[split] = tokenize.tokenize_dataset(
            dataset_splits.splits[split], tokenizer, limit, recipe.data.truncation
        )
        cut = tokenize.count_truncated_texts(
            dataset_splits.splits[split], rows[split], tokenizer, limit
        )
        if cut:
            reporter.info(
                f"{cut:,} of {len(dataset_splits.splits[split]):,} {split} texts were "
                f"{_TRUNCATION_NOTES[recipe.data.truncation].format(limit)}."
            )
        rows[split] = map_labels_to_model(rows[split], dataset_splits, names)
    return rows
