"""The student learns from the teacher's outputs and the data's labels."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from datasets import concatenate_datasets
from transformers import set_seed

from kdcli import distributed
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.labels.label_matching import labels_to_numpy
from kdcli.data.tokenization.windows import concat_per_text_columns
from kdcli.errors import UserError
from kdcli.losses import Loss, label_only_losses
from kdcli.losses.base import INTERNAL_OUTPUTS, LayerMapping, required_teacher_outputs
from kdcli.losses.combined import CombinedLoss
from kdcli.models import model_io
from kdcli.models.padding import create_collator
from kdcli.pipeline import run_datasets
from kdcli.pipeline.run_folder import StageContext
from kdcli.progress import ProgressCounter
from kdcli.recipe.training import TrainingConfig
from kdcli.tasks import Task
from kdcli.training import hidden_state_cache, model_outputs, teacher_logits
from kdcli.training.label_loss import build_label_loss_options
from kdcli.training.train import TrainingRun, library_versions, train_model

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_SAMPLE = 100


def distill_student(context: StageContext) -> dict[str, Any]:
    """Build the trained student's folder.

    Returns:
        `history`, a row for each epoch; `parameters`; `versions` of what trained it.
    """
    return _train_student(
        context, "distill", context.recipe.distill.losses_for_task, use_transfer_set=True
    )


def train_control_without_transfer_set(context: StageContext) -> dict[str, Any]:
    """Build the folder of the same student, trained without the transfer set.

    Returns:
        The same as `run`.
    """
    return _train_student(context, "control", context.recipe.distill.losses_for_task)


def train_baseline_on_labels(context: StageContext) -> dict[str, Any]:
    """Build the folder of the same student, trained on the labels alone with the same budget.

    Returns:
        The same as `run`.
    """
    return _train_student(context, "baseline", label_only_losses)


def _train_student(
    context: StageContext,
    stage: str,
    losses_for_task: Callable[[Task], Sequence[Loss]],
    *,
    use_transfer_set: bool = False,
) -> dict[str, Any]:
    recipe = context.recipe
    student = model_io.load_classifier(context.artifacts["student"])
    tokenizer = model_io.load_tokenizer(context.artifacts["student"])
    corpus = run_datasets.with_transfer_set(
        run_datasets.load_recipe_dataset(recipe, context.reporter), context
    )
    corpus = run_datasets.with_pseudo_labels(corpus, context)
    run_datasets.configure_tokenizer_and_padding(recipe, corpus, student, tokenizer, "The student")
    task, terms = corpus.task, losses_for_task(corpus.task)
    beyond = run_datasets.TRANSFER_SPLIT in corpus.splits
    parts = ["train", "validation"] + [run_datasets.TRANSFER_SPLIT] * (use_transfer_set and beyond)
    rows = run_datasets.tokenize_splits(
        recipe, corpus, student, tokenizer, splits=parts, reporter=context.reporter
    )
    if "logits" in required_teacher_outputs(terms):
        outputs = teacher_logits.load_teacher_logits(context.artifacts["outputs"])
        rows = {part: concat_per_text_columns(rows[part], outputs[part]) for part in parts}
    if run_datasets.TRANSFER_SPLIT in rows:
        rows["train"] = concatenate_datasets([rows["train"], rows.pop(run_datasets.TRANSFER_SPLIT)])
    asked = required_teacher_outputs(terms)
    teacher, shapes, on_disk = None, None, None
    if asked & INTERNAL_OUTPUTS:
        teacher, shapes = _load_teacher_and_layer_mapping(student, tokenizer, corpus, context)
        for model in (student, teacher):
            model_outputs.enable_model_outputs(model, asked)
    labels = labels_to_numpy(rows["train"])
    hard = build_label_loss_options(recipe.distill, labels, student.config.num_labels, task)
    # Projections are drawn at random: not from where earlier stages have left the generator.
    set_seed(recipe.student_seed)
    objective = CombinedLoss(terms, shapes, hard, task)
    if teacher is not None and asked & INTERNAL_OUTPUTS == {"hidden_states"}:
        teacher, rows, on_disk = _cache_hidden_states(teacher, tokenizer, rows, objective, context)
    spec: TrainingConfig = recipe.distill
    if beyond and not use_transfer_set:
        spec = _match_training_steps(spec, corpus)
    epochs = train_model(
        student,
        tokenizer,
        rows,
        spec,
        objective,
        run=TrainingRun.for_stage(context, stage, recipe.student_seed),
        teacher=teacher,
        hidden_state_cache=on_disk,
    )
    model_io.save_model(student, tokenizer, context.output)
    return {
        "history": [epoch.to_row() for epoch in epochs],
        "parameters": model_io.count_parameters(student),
        "versions": library_versions(),
    }


def _match_training_steps(config: TrainingConfig, dataset_splits: DatasetSplits) -> TrainingConfig:
    """The training of a student that learns from fewer texts: in more epochs."""
    alone = len(dataset_splits.splits["train"])
    epochs = config.epochs * config.count_optimizer_steps(
        alone + len(dataset_splits.splits[run_datasets.TRANSFER_SPLIT])
    )
    return config.model_copy(update={"epochs": round(epochs / config.count_optimizer_steps(alone))})


def _load_teacher_and_layer_mapping(
    student: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dataset_splits: DatasetSplits,
    context: StageContext,
) -> tuple["PreTrainedModel", LayerMapping]:
    """The teacher, to run beside the student, and which layers of the two belong together."""
    teacher = model_io.load_classifier(context.artifacts["teacher"])
    sample = dataset_splits.splits["train"][:_TOKENIZER_SAMPLE]["text"]
    own, teachers = (
        t(sample)["input_ids"]
        for t in (tokenizer, model_io.load_tokenizer(context.artifacts["teacher"]))
    )
    if own != teachers:
        raise UserError(
            "distill.losses: teacher and student cut texts into other tokens, so that their states "
            "can't be compared.",
            "Use losses of logits, such as soft_targets, or cut the student from the teacher.",
        )
    kept_layers = context.stage_results["student"]["layers"]
    return teacher, model_outputs.map_layers(student, teacher, kept_layers)


def _cache_hidden_states(
    teacher: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tokenized: dict[str, "Dataset"],
    loss_fn: CombinedLoss,
    context: StageContext,
) -> tuple[
    "PreTrainedModel | None", dict[str, "Dataset"], hidden_state_cache.HiddenStateCache | None
]:
    """The teacher's hidden states on disk in its place, where there is room for them.

    Reading them is quicker than computing them, and each epoch after the first reads again.

    Returns:
        The teacher, where it has to run beside the student; the rows, numbered where it hasn't;
        its states.
    """
    count = len(tokenized["train"])
    starts = {"train": 0, "validation": count}
    numbered = {
        part: split.add_column(
            hidden_state_cache.ROW_COLUMN, list(range(starts[part], starts[part] + len(split)))
        )
        for part, split in tokenized.items()
    }
    whole = concatenate_datasets([numbered[part].remove_columns("labels") for part in starts])
    places, width = loss_fn.teacher_hidden_state_indices, teacher.config.hidden_size
    if not hidden_state_cache.cache_fits_on_disk(whole, places, width, context.scratch):
        return teacher, tokenized, None
    collate, advance = (
        create_collator(teacher, tokenizer),
        ProgressCounter(context.reporter, len(whole)),
    )
    # One process writes, and all of them read.
    distributed.broadcast_from_rank0(
        lambda: hidden_state_cache.write_hidden_state_cache(
            teacher, collate, whole, places, context.scratch, advance=advance
        )
    )
    return (
        None,
        numbered,
        hidden_state_cache.open_hidden_state_cache(whole, places, width, context.scratch),
    )
