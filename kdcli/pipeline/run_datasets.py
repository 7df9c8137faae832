"""Load and tokenize the texts that a run trains and evaluates on."""

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
from kdcli.data.shared_loading import load_once
from kdcli.data.tokenization import tokenize
from kdcli.errors import DataError
from kdcli.models import model_io
from kdcli.models.padding_invariance import choose_invariant_padding
from kdcli.models.sequence_length import get_max_length
from kdcli.pipeline.options import RunOptions
from kdcli.pipeline.stage import StageContext
from kdcli.progress import Reporter
from kdcli.recipe.data import DataConfig
from kdcli.recipe.schema import EvaluateCommandConfig, Recipe
from kdcli.recipe.teacher import ClassifierTeacherConfig
from kdcli.tasks import REGRESSION, SINGLE_LABEL, TASKS, Task
from kdcli.teachers import black_box_queries
from kdcli.teachers.black_box_context import BlackBoxContext
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
    """Load the recipe's data, and report notes on it; see `load_dataset_splits`."""
    teacher_labels = None if recipe.data.label is not None else _labels_from_teacher(recipe)
    dataset_splits = load_once(
        f"{recipe.data.model_dump_json()} {recipe.seed} {for_training} {teacher_labels}",
        lambda: dataset_loading.load_dataset_splits(
            recipe.data, recipe.seed, require_train=for_training, teacher_labels=teacher_labels
        ),
    )
    for note in dataset_splits.notes:
        reporter.info(note)
    teacher = None if isinstance(recipe, EvaluateCommandConfig) else recipe.white_box_teacher
    if (
        teacher is None
        or teacher.fine_tune is not None
        or not are_default_label_names(dataset_splits.label_names)
    ):
        return dataset_splits
    return dataset_splits.with_model_label_names(
        model_io.get_label_names(_load_teacher_config(teacher))
    )


def load_texts_without_labels(data_config: DataConfig, reporter: Reporter) -> "Dataset":
    """Load a data set's texts without their labels, and report notes on them."""
    notes: list[str] = []
    texts = dataset_loading.load_texts_without_labels(data_config, notes)
    for note in notes:
        reporter.info(note)
    return texts


def _labels_from_teacher(recipe: Recipe | EvaluateCommandConfig) -> tuple[tuple[str, ...], Task]:
    """Return the label names and the task of a teacher that labels the data."""
    if isinstance(recipe, EvaluateCommandConfig):
        raise DataError(
            "data.label is null: there are no labels to measure by.",
            "Name texts that have some: --data, --label.",
        )
    task = SINGLE_LABEL if recipe.data.task is None else TASKS[recipe.data.task]
    if recipe.black_box_teacher is not None:
        return black_box_queries.labels_named_by_teacher(
            recipe.black_box_teacher, recipe.data
        ), task
    teacher = recipe.white_box_teacher
    assert teacher is not None
    config = _load_teacher_config(teacher)
    if recipe.data.task is None:
        default_task = REGRESSION if config.num_labels == 1 else SINGLE_LABEL
        task = TASKS.get(config.problem_type or "", default_task)
    return model_io.get_label_names(config), task


def _load_teacher_config(teacher: ClassifierTeacherConfig) -> "PretrainedConfig":
    # Only the configuration is read: it can't run code, even if the weights are a pickle.
    return model_io.load_config(
        model_io.locate_model(teacher.model, teacher.revision, allow_pickle=True)
    )


def load_teacher_labeled_dataset(
    context: StageContext, *, with_transfer: bool = True
) -> DatasetSplits:
    """Load a stage's data set, with the teacher's labels where the data has none.

    Args:
        context: The stage's context.
        with_transfer: Add the transfer set, if there is one, as a split.
    """
    dataset_splits = load_recipe_dataset(context.recipe, context.reporter)
    if with_transfer:
        dataset_splits = with_transfer_set(dataset_splits, context)
    return with_pseudo_labels(dataset_splits, context)


def with_pseudo_labels(dataset_splits: DatasetSplits, context: StageContext) -> DatasetSplits:
    """Label data without labels by the teacher's predictions.

    Lee 2013 (Pseudo-Label), with a teacher in place of the model itself.
    """
    if dataset_splits.has_labels:
        return dataset_splits
    outputs = teacher_logits.load_teacher_logits(context.artifacts["outputs"])
    splits = dict(dataset_splits.splits)
    for part in splits.keys() & outputs.keys():
        predictions = dataset_splits.task.predict(np.asarray(outputs[part][TEACHER_LOGITS]))
        splits[part] = label_arrays.label_with_predictions(
            splits[part], predictions, dataset_splits.label_names, dataset_splits.task
        )
    return replace(dataset_splits, splits=splits)


def with_transfer_set(dataset_splits: DatasetSplits, context: StageContext) -> DatasetSplits:
    """Add the transfer set, if the run has one, as the split `transfer`."""
    folder = context.artifacts.get("transfer")
    if folder is None:
        return dataset_splits
    return replace(
        dataset_splits,
        splits={**dataset_splits.splits, TRANSFER_SPLIT: saved_dataset.load_saved_dataset(folder)},
    )


def black_box_context(
    recipe: Recipe,
    dataset_splits: DatasetSplits,
    folder: Path,
    reporter: Reporter,
    options: RunOptions,
) -> BlackBoxContext:
    """Return the inputs of a black-box teacher.

    Args:
        recipe: The recipe.
        dataset_splits: The texts.
        folder: The teacher's folder.
        reporter: Shows notes and progress.
        options: What the run may load and ask.
    """
    return BlackBoxContext(
        dataset_splits,
        recipe.data,
        folder,
        reporter,
        options.allow_pickle,
        options.allow_code,
        options.allow_endpoints,
    )


def configure_tokenizer_and_padding(
    recipe: Recipe,
    dataset_splits: DatasetSplits,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    model_description: str,
) -> None:
    """Set truncation as in the recipe, and padding so that a batch gives each text its own logits.

    The settings are saved with the tokenizer, so that they hold without kd too.

    Raises:
        ModelError: No kind of padding does so; see
            `kdcli.models.padding_invariance.choose_invariant_padding`.
    """
    limit = get_max_length(model, tokenizer, recipe.data.max_length)
    tokenizer.model_max_length = limit
    if side := tokenize.TRUNCATION_SIDES.get(recipe.data.truncation):
        tokenizer.truncation_side = side
        # Only what it was made with is saved.
        tokenizer.init_kwargs["truncation_side"] = side
    some = column_access.sample_texts(dataset_splits.splits["train"])
    choose_invariant_padding(
        model,
        tokenizer,
        model_description,
        some,
        max_length=limit,
        truncation=recipe.data.truncation,
    )


def all_texts(split: "Dataset") -> list[str]:
    """Return the texts of a split; a pair counts as two."""
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
    """Tokenize splits and map labels to the model's ids; report how many texts were truncated."""
    limit = get_max_length(model, tokenizer, recipe.data.max_length)
    names = model_io.get_label_names(model.config)
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
