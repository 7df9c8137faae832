"""Preparations that the stages which train have in common."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets import concatenate_datasets
from transformers import set_seed

from kdcli import distributed
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.labels.label_matching import labels_to_numpy
from kdcli.errors import UserError
from kdcli.losses import label_only_losses
from kdcli.losses.base import LayerMapping
from kdcli.losses.combined import CombinedLoss
from kdcli.models import model_io
from kdcli.models.model_complexity import count_parameters_and_flops
from kdcli.models.padding_invariance import create_collator
from kdcli.pipeline import run_datasets
from kdcli.pipeline.stage import StageContext
from kdcli.progress import StageProgress
from kdcli.training import hidden_state_cache, model_outputs
from kdcli.training.label_loss import build_label_loss_options
from kdcli.training.train import TrainingContext

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_SAMPLE = 100


def prepare_teacher_fine_tuning(
    context: StageContext, stage: str, dataset_splits: DatasetSplits
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]":
    """Load the recipe's teacher with a new head, and prepare its fine-tuning.

    Args:
        context: Context of the stage that fine-tunes.
        stage: Name of the log file.
        dataset_splits: The texts, with splits `train` and `validation`.

    Returns:
        Model, tokenizer and the keyword arguments of `train_model`.
    """
    teacher = context.recipe.white_box_teacher
    assert teacher is not None and teacher.fine_tune is not None
    folder = model_io.locate_model(
        teacher.model, teacher.revision, allow_pickle=context.options.allow_pickle
    )
    seed = context.recipe.seed if teacher.seed is None else teacher.seed
    set_seed(seed)
    # Balanced class weights make every label as likely as not: the log-odds are 0.
    balanced = teacher.fine_tune.class_weights == "balanced"
    prior = None if balanced else dataset_splits.label_prior(dataset_splits.label_names)
    task, label_names = dataset_splits.task, dataset_splits.label_names
    model = model_io.load_classifier(
        folder, label_names, task.name, allow_new_head=True, initial_bias=prior
    )
    tokenizer = model_io.load_tokenizer(folder)
    run_datasets.configure_tokenizer_and_padding(
        context.recipe, dataset_splits, model, tokenizer, "The teacher"
    )
    rows = run_datasets.tokenize_splits(
        context.recipe,
        dataset_splits,
        model,
        tokenizer,
        splits=("train", "validation"),
        reporter=context.reporter,
    )
    label_options = build_label_loss_options(
        teacher.fine_tune, labels_to_numpy(rows["train"]), len(label_names), task
    )
    return model, tokenizer, {
        "datasets": rows,
        "config": teacher.fine_tune,
        "loss_fn": CombinedLoss(label_only_losses(task), label_options=label_options, task=task),
        "run": TrainingContext.for_stage(context, stage, seed),
    }  # fmt: skip


def load_teacher_and_layer_mapping(
    student: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dataset_splits: DatasetSplits,
    context: StageContext,
) -> tuple["PreTrainedModel", LayerMapping]:
    """Load the teacher that a loss on hidden states or attentions needs, and match its layers.

    Raises:
        UserError: Teacher and student tokenize texts differently.
    """
    folder = context.artifacts["teacher"]
    teacher = model_io.load_classifier(folder)
    sample = dataset_splits.splits["train"][:_TOKENIZER_SAMPLE]["text"]
    teacher_tokenizer = model_io.load_tokenizer(folder)
    if tokenizer(sample)["input_ids"] != teacher_tokenizer(sample)["input_ids"]:
        raise UserError(
            "distill.losses: teacher and student tokenize texts differently, so that their hidden "
            "states can't be compared.",
            "Use losses of logits, such as soft_targets, or cut the student from the teacher.",
        )
    kept_layers = context.stage_results["student"]["layers"]
    return teacher, model_outputs.map_layers(student, teacher, kept_layers)


def cache_hidden_states(
    teacher: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tokenized: Mapping[str, "Dataset"],
    loss_fn: CombinedLoss,
    context: StageContext,
    *,
    student: "PreTrainedModel",
) -> tuple[dict[str, "Dataset"], hidden_state_cache.HiddenStateCache] | None:
    """Write the teacher's hidden states to disk, if there is room for them.

    Reading them is faster than computing them, and each epoch reads them again.

    Returns:
        The rows with a column of their numbers, and the cache; None if there is no room.
    """
    train_size = len(tokenized["train"])
    first_number = {"train": 0, "validation": train_size}
    numbered = {
        name: split.add_column(
            hidden_state_cache.ROW_COLUMN,
            list(range(first_number[name], first_number[name] + len(split))),
        )
        for name, split in tokenized.items()
    }
    rows = concatenate_datasets([numbered[name].remove_columns("labels") for name in first_number])
    layers, width = loss_fn.teacher_hidden_state_indices, teacher.config.hidden_size
    if not hidden_state_cache.cache_fits_on_disk(rows, layers, width, context.scratch):
        return None
    collate = create_collator(teacher, tokenizer)
    advance = StageProgress(context.reporter, len(rows))
    # A step of training costs three forward passes.
    work = count_parameters_and_flops(teacher).flops_per_token
    training_work = count_parameters_and_flops(student).flops_per_token
    share = work / (work + 3 * context.recipe.distill.epochs * training_work)
    context.reporter.phase("write the teacher's hidden states", 0.0, share)
    # One process writes, all of them read.
    distributed.broadcast_from_rank0(
        lambda: hidden_state_cache.write_hidden_state_cache(
            teacher, collate, rows, layers, context.scratch, advance=advance
        )
    )
    context.reporter.phase("train", share)
    return numbered, hidden_state_cache.load_hidden_state_cache(
        rows, layers, width, context.scratch
    )
