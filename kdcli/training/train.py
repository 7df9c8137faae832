"""One fit for teacher and student: what is trained, on what, and what is said of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from kdcli import distributed
from kdcli.data.tokenization.tokenize import (
    PaddingCollator,
    class_balanced_probabilities,
    labels_to_numpy,
    token_lengths,
)
from kdcli.errors import UserError
from kdcli.losses.base import INTERNAL_OUTPUTS
from kdcli.losses.combined import CombinedLoss
from kdcli.models.cls_only import last_layer_cls_only
from kdcli.models.padding import get_forward_argument_names, get_pad_token_id
from kdcli.pipeline.run_folder import CheckpointInterval
from kdcli.progress import Reporter
from kdcli.recipe.training import TrainingConfig
from kdcli.training import experiment_trackers, freezing, resource_checks
from kdcli.training.checkpoints import (
    CheckpointCallback,
    catch_stop_signals,
    find_latest_checkpoint,
    stopped_at_step_error,
)
from kdcli.training.embedding_compaction import compact_embeddings, has_untied_embeddings
from kdcli.training.hidden_state_cache import HiddenStateCache
from kdcli.training.trainer import DistillationTrainer
from kdcli.training.weight_averaging import WeightAveragingCallback

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROJECTIONS_MODULE = "distillation_projections"


@dataclass(frozen=True)
class EpochMetrics:
    """A row of the training's table.

    Attributes:
        epoch: Counted from 1.
        step: Optimiser steps so far.
        training_loss: Mean over the epoch's rows, each as it was when its step was taken.
        training_terms: The same for each weighted term.
        validation_loss: The same loss on validation.
        validation_terms: The same for each weighted term.
        validation_metrics: The task's headline on validation, by its name.
    """

    epoch: int
    step: int
    training_loss: float
    training_terms: Mapping[str, float]
    validation_loss: float
    validation_terms: Mapping[str, float]
    validation_metrics: Mapping[str, float]


def train_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    train_dataset: "Dataset",
    validation_dataset: "Dataset",
    *,
    config: TrainingConfig,
    loss_fn: CombinedLoss,
    teacher: "PreTrainedModel | None" = None,
    hidden_state_cache: HiddenStateCache | None = None,
    seed: int,
    checkpoints_folder: Path,
    log_file: Path,
    reporter: Reporter,
    checkpoint_interval: CheckpointInterval = CheckpointInterval(),
    report_to: Sequence[str] = (),
    run_name: str | None = None,
) -> list[EpochMetrics]:
    """Train `model` in place, from the newest whole checkpoint in `checkpoints_folder` where there is one.

    A run that was broken off and goes on ends in the same bits as an unbroken one (on the same
    machine, processes and CPU threads). Several processes share each batch: theirs is the loss
    of one process, but for rounding and dropout.

    Args:
        model: A sequence classifier.
        tokenizer: Pads its batches.
        train_dataset: Encoded rows with `labels`, and what else the objective reads.
        validation_dataset: The same; measured after every epoch.
        config: Rates, sizes, epochs.
        loss_fn: Gives the loss's weighted terms.
        teacher: Reads the same tokens as the model; needed where the objective looks within it.
        hidden_state_cache: Its hidden states, where they are on disk instead; the rows have their numbers.
        seed: Of the order of the rows and of dropout.
        checkpoints_folder: A folder for checkpoints of this very fit, and no other's.
        log_file: A JSON-lines file for the figures of every epoch; TensorBoard's files lie in a folder
            of its name.
        reporter: Told of every step.
        checkpoint_interval: How often a checkpoint is written.
        report_to: Trackers, as transformers calls them.
        run_name: What they are to call this fit.

    Returns:
        One row for each epoch.

    Raises:
        MendableError: The loss is no longer a number, or has no gradient.
        MachineError: There is no room for checkpoints, or too little memory.
        StoppedError: Ctrl-C or SIGTERM; a checkpoint is written.
    """
    checkpoints_folder.mkdir(parents=True, exist_ok=True)
    found = distributed.broadcast_from_rank0(lambda: find_latest_checkpoint(checkpoints_folder))
    checkpoint, memory = found or (None, {"sums": {}, "rows": 0})
    if checkpoint is not None:
        reporter.info(f"Going on from {checkpoint.name.replace('-', ' at step ')}.")
    resource_checks.require_disk_for_checkpoints(model, checkpoints_folder)
    models = [model] if teacher is None else [model, teacher]
    with (
        _compact_embeddings_if_safe(models, config, (train_dataset, validation_dataset)) as place,
        freezing.freeze_layers(model, config.freeze),
        freezing.override_dropout(model, config.dropout),
        _last_layer_cls_only_if_safe(models, loss_fn),
        _projections_attached(model, loss_fn),
        catch_stop_signals() as request,
    ):
        inputs = [name for one in models for name in get_forward_argument_names(one)]
        collate = PaddingCollator(tokenizer, inputs, place, get_pad_token_id(model))
        average = WeightAveragingCallback(model, config.average, checkpoint)
        trainer = DistillationTrainer(
            model=model,
            args=_training_arguments(
                config, seed, checkpoints_folder, run_name, loss_fn.task.primary_metric
            ),
            train_dataset=train_dataset,
            # Like lengths side by side: a pass over them pads little.
            eval_dataset=validation_dataset.select(
                np.argsort(token_lengths(validation_dataset), kind="stable")
            ),
            processing_class=tokenizer,
            data_collator=collate
            if hidden_state_cache is None
            else hidden_state_cache.wrap_collator(collate),
            callbacks=[
                _ReporterCallback(reporter, log_file, loss_fn.task.primary_metric),
                average,
                CheckpointCallback(checkpoint_interval, request, memory),
                *experiment_trackers.create_tracker_callbacks(
                    report_to, log_file.with_suffix(""), checkpoint, memory
                ),
            ],
        )
        resource_checks.require_memory_for_training(model, train_dataset, config)
        trainer.loss_fn, trainer.loss_sums = loss_fn, memory
        trainer.teacher = teacher and teacher.to(trainer.args.device).eval()
        trainer.global_batch_size = config.batch_size
        trainer.sampling_probabilities = (
            class_balanced_probabilities(labels_to_numpy(train_dataset))
            if config.sampling == "balanced"
            else None
        )
        trainer.weight_averaging = average
        trainer.remove_callback(PrinterCallback)
        if distributed.world_size() > 1:
            # With one seed the same places of every process's share would drop out.
            torch.manual_seed(seed + distributed.rank())
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        state = trainer.state
        # The Trainer returns from a stop as from an end.
        if state.global_step < state.max_steps:
            raise stopped_at_step_error(request, state.global_step, state.max_steps)
        average.apply_average()
    return _epoch_metrics_from_log(state.log_history, loss_fn.task.primary_metric)


def _compact_embeddings_if_safe(
    models: Sequence["PreTrainedModel"],
    config: TrainingConfig,
    tokenized_splits: Sequence["Dataset"],
) -> AbstractContextManager[Tensor | None]:
    # Weight decay moves rows without a gradient too.
    if config.weight_decay or not all(map(has_untied_embeddings, models)):
        return nullcontext()
    return compact_embeddings(models, tokenized_splits)


@contextmanager
def _last_layer_cls_only_if_safe(
    models: Sequence["PreTrainedModel"], loss_fn: CombinedLoss
) -> Iterator[None]:
    """Within the block nothing is computed for tokens that neither head nor loss reads."""
    with ExitStack() as held:
        if not loss_fn.required_outputs & INTERNAL_OUTPUTS:
            for model in models:
                held.enter_context(last_layer_cls_only(model))
        yield


@contextmanager
def _projections_attached(model: "PreTrainedModel", loss_fn: CombinedLoss) -> Iterator[None]:
    """Within the block the objective's projections are trained, and saved, with the model."""
    if not loss_fn.projections:
        yield
        return
    if distributed.world_size() > 1:
        raise UserError(
            "Losses that project hidden states can't be shared out among processes.",
            "Run it in one process, or give the student the teacher's width.",
        )
    model.add_module(_PROJECTIONS_MODULE, loss_fn.projections)
    try:
        yield
    finally:
        delattr(model, _PROJECTIONS_MODULE)


def library_versions() -> dict[str, str]:
    """The versions of what trains, for the card."""
    from importlib.metadata import version

    names = {"Transformers": "transformers", "PyTorch": "torch"}
    names |= {"Datasets": "datasets", "Tokenizers": "tokenizers"}
    return {title: version(name) for title, name in names.items()}


class _ReporterCallback(TrainerCallback):
    def __init__(self, reporter: Reporter, log_file: Path, primary_metric: str) -> None:
        self.reporter, self.log_file, self.primary_metric = reporter, log_file, primary_metric
        log_file.parent.mkdir(parents=True, exist_ok=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if distributed.is_main_process():
            lines = (json.dumps(row) + "\n" for row in state.log_history)
            self.log_file.write_text("".join(lines))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.reporter.advance(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if distributed.is_main_process():
            with self.log_file.open("a") as file:
                file.write(json.dumps({**logs, "step": state.global_step}) + "\n")
        shown = {"loss": "loss", "eval_loss": "validation loss"}
        shown[f"eval_{self.primary_metric}"] = self.primary_metric
        figures = {name: logs[key] for key, name in shown.items() if key in logs}
        self.reporter.advance(state.global_step, state.max_steps, figures)


def _training_arguments(
    config: TrainingConfig,
    seed: int,
    checkpoints_folder: Path,
    run_name: str | None,
    primary_metric: str,
) -> TrainingArguments:
    best = config.keep == "best"
    return TrainingArguments(
        output_dir=str(checkpoints_folder),
        run_name=run_name,
        learning_rate=config.learning_rate,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        num_train_epochs=config.epochs,
        gradient_accumulation_steps=config.gradient_accumulation,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        adam_epsilon=config.epsilon,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=seed,
        eval_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_strategy="epoch" if best else "no",
        load_best_model_at_end=best,
        metric_for_best_model=primary_metric,
        remove_unused_columns=False,
        report_to="none",  # trackers.start does it: TensorBoard needs a place, and a step
        disable_tqdm=True,
    )


def _epoch_metrics_from_log(
    log_history: list[dict[str, float]], primary_metric: str
) -> list[EpochMetrics]:
    trained = {row["step"]: row for row in log_history if "loss" in row}
    return [
        EpochMetrics(
            epoch=round(row["epoch"]),
            step=int(row["step"]),
            training_loss=trained[row["step"]]["loss"],
            training_terms=_loss_terms_from_log(trained[row["step"]], "loss/"),
            validation_loss=row["eval_loss"],
            validation_terms=_loss_terms_from_log(row, "eval_loss/"),
            validation_metrics={primary_metric: row[f"eval_{primary_metric}"]},
        )
        for row in log_history
        if "eval_loss" in row
    ]


def _loss_terms_from_log(log_entry: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in log_entry.items() if k.startswith(prefix)}
