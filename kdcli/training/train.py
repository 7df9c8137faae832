"""Training of teacher and student: checkpoints, resuming, memory checks, logs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, TrainingArguments

from kdcli import distributed
from kdcli.data.labels.label_matching import labels_to_numpy
from kdcli.data.tokenization.batch_sampler import class_balanced_probabilities
from kdcli.data.tokenization.collator import PaddingCollator
from kdcli.data.tokenization.tokenize import token_lengths
from kdcli.losses.base import INTERNAL_OUTPUTS
from kdcli.losses.combined import CombinedLoss
from kdcli.models.cls_only import last_layer_cls_only
from kdcli.models.device import inference_device, resolve_precision
from kdcli.models.padding_invariance import get_forward_argument_names, get_pad_token_id
from kdcli.pipeline.run_folder import CheckpointInterval
from kdcli.pipeline.stage import StageContext
from kdcli.progress import Reporter
from kdcli.recipe.training import TrainingConfig
from kdcli.training import experiment_trackers, freezing, resource_checks
from kdcli.training.checkpoints import CheckpointCallback, recover_latest_checkpoint
from kdcli.training.dropout import temporary_dropout
from kdcli.training.embedding_compaction import compact_embeddings, has_untied_embeddings
from kdcli.training.hidden_state_cache import HiddenStateCache
from kdcli.training.stop_signals import catch_stop_signals, stopped_at_step_error
from kdcli.training.trainer import DistillationTrainer, projections_attached
from kdcli.training.training_history import EpochMetrics, ReporterCallback, epoch_metrics_from_log
from kdcli.training.weight_averaging import WeightAveragingCallback

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainingContext:
    """Context of one training: its seed, files and reporter.

    Attributes:
        seed: Seed of the order of the rows and of dropout.
        checkpoints_folder: A folder for the checkpoints of this training alone. Training resumes
            from the newest complete one.
        log_file: A JSON-lines file for the metrics of every epoch. TensorBoard's files go to a
            folder of the same name without the suffix.
        reporter: Gets every step.
        checkpoint_interval: Steps or seconds between checkpoints.
        report_to: Experiment trackers, by transformers' names.
        run_name: The training's name in those trackers.
    """

    seed: int
    checkpoints_folder: Path
    log_file: Path
    reporter: Reporter
    checkpoint_interval: CheckpointInterval = CheckpointInterval()
    report_to: Sequence[str] = ()
    run_name: str | None = None

    @classmethod
    def for_stage(cls, context: StageContext, stage: str, seed: int) -> "TrainingContext":
        """Return the run of a stage: files in its run folder, trackers of its recipe."""
        return cls(
            seed=seed,
            checkpoints_folder=context.scratch,
            log_file=context.logs / f"{stage}.jsonl",
            reporter=context.reporter,
            checkpoint_interval=context.options.checkpoint_interval,
            report_to=context.recipe.report_to,
            run_name=f"{context.recipe.name}-{stage}",
        )


def train_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    datasets: Mapping[str, "Dataset"],
    config: TrainingConfig,
    loss_fn: CombinedLoss,
    *,
    run: TrainingContext,
    teacher: "PreTrainedModel | None" = None,
    hidden_state_cache: HiddenStateCache | None = None,
) -> list[EpochMetrics]:
    """Train `model` in place, from the newest complete checkpoint if there is one.

    An interrupted run that resumes ends with the same bits as an uninterrupted one (on the same
    machine, processes and CPU threads). Several processes share each batch; their loss is that of
    one process, up to rounding and dropout.

    Args:
        model: A sequence classifier.
        tokenizer: Pads its batches.
        datasets: `train`, and `validation`, which is evaluated after every epoch: tokenised rows
            with `labels`, and `teacher_logits` if the loss needs them.
        config: Hyperparameters.
        loss_fn: The weighted losses.
        run: Seed, files and reporting.
        teacher: Reads the same tokens as the model; needed if the loss compares hidden states or
            attentions and there is no `hidden_state_cache`.
        hidden_state_cache: The teacher's hidden states on disk, by the datasets' column `row`.

    Returns:
        One row for each epoch.

    Raises:
        UserError: The loss isn't finite, or has no gradient.
        ResourceError: Too little disk space for checkpoints, or too little memory.
        RunInterruptedError: Ctrl-C or SIGTERM; a checkpoint is written.
    """
    run.checkpoints_folder.mkdir(parents=True, exist_ok=True)
    resume_from = distributed.broadcast_from_rank0(
        lambda: recover_latest_checkpoint(run.checkpoints_folder)
    )
    checkpoint, loss_sums = resume_from or (None, {"sums": {}, "rows": 0})
    if checkpoint is not None:
        run.reporter.info(f"Resuming from {checkpoint.name.replace('-', ' at step ')}.")
    resource_checks.require_disk_for_checkpoints(model, run.checkpoints_folder)
    models = [model] if teacher is None else [model, teacher]
    train_dataset, validation_dataset = datasets["train"], datasets["validation"]
    primary_metric = loss_fn.task.primary_metric
    with (
        _compact_embeddings_if_safe(
            models, config, (train_dataset, validation_dataset)
        ) as embedding_rows,
        freezing.freeze_layers(model, config.freeze_layers),
        temporary_dropout(model, config.dropout),
        _last_layer_cls_only_if_safe(models, loss_fn),
        projections_attached(model, loss_fn),
        catch_stop_signals() as stop_request,
    ):
        argument_names = [name for one in models for name in get_forward_argument_names(one)]
        collator = PaddingCollator(
            tokenizer, argument_names, embedding_rows, get_pad_token_id(model)
        )
        weight_averaging = WeightAveragingCallback(model, config.weight_averaging_ratio, checkpoint)
        trainer = DistillationTrainer(
            model=model,
            args=_training_arguments(config, run, primary_metric),
            losses=loss_fn,
            teacher=teacher,
            train_dataset=train_dataset,
            # Sorted by length, a pass reads neighbouring rows.
            eval_dataset=validation_dataset.select(
                np.argsort(token_lengths(validation_dataset), kind="stable")
            ),
            processing_class=tokenizer,
            data_collator=collator
            if hidden_state_cache is None
            else hidden_state_cache.wrap_collator(collator),
            global_batch_size=config.batch_size,
            sampling_probabilities=class_balanced_probabilities(labels_to_numpy(train_dataset))
            if config.sampling == "balanced"
            else None,
            weight_averaging=weight_averaging,
            loss_sums=loss_sums,
            callbacks=[
                ReporterCallback(run.reporter, run.log_file, primary_metric, loss_sums),
                weight_averaging,
                CheckpointCallback(run.checkpoint_interval, stop_request, loss_sums),
                *experiment_trackers.create_tracker_callbacks(
                    run.report_to, run.log_file.with_suffix(""), checkpoint, loss_sums
                ),
            ],
        )
        resource_checks.require_memory_for_training(model, train_dataset, config)
        trainer.remove_callback(PrinterCallback)
        if distributed.world_size() > 1:
            # With one seed, dropout would drop the same units in every process's rows.
            torch.manual_seed(run.seed + distributed.rank())
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        state = trainer.state
        # The Trainer returns from a stop as from an end.
        if state.global_step < state.max_steps:
            raise stopped_at_step_error(stop_request, state.global_step, state.max_steps)
        weight_averaging.apply_average()
    return epoch_metrics_from_log(state.log_history, primary_metric)


def _compact_embeddings_if_safe(
    models: Sequence["PreTrainedModel"],
    config: TrainingConfig,
    tokenized_splits: Sequence["Dataset"],
) -> AbstractContextManager[Tensor | None]:
    # Weight decay changes rows without a gradient too.
    if config.weight_decay or not all(map(has_untied_embeddings, models)):
        return nullcontext()
    return compact_embeddings(models, tokenized_splits)


@contextmanager
def _last_layer_cls_only_if_safe(
    models: Sequence["PreTrainedModel"], loss_fn: CombinedLoss
) -> Iterator[None]:
    """Within the block the last layer computes only tokens that the head or a loss reads."""
    with ExitStack() as stack:
        if not loss_fn.required_outputs & INTERNAL_OUTPUTS:
            for model in models:
                stack.enter_context(last_layer_cls_only(model))
        yield


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that train, by title, for the model card."""
    from importlib.metadata import version

    names = {"Transformers": "transformers", "PyTorch": "torch"}
    names |= {"Datasets": "datasets", "Tokenizers": "tokenizers"}
    return {title: version(name) for title, name in names.items()}


def _training_arguments(
    config: TrainingConfig, run: TrainingContext, primary_metric: str
) -> TrainingArguments:
    best, precision = config.keep_checkpoint == "best", resolve_precision(config.precision)
    return TrainingArguments(
        output_dir=str(run.checkpoints_folder),
        run_name=run.run_name,
        learning_rate=config.learning_rate,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        num_train_epochs=config.epochs,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_ratio,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        adam_epsilon=config.epsilon,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=run.seed,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        # Without it, the Trainer takes bfloat16 for one of GPUs.
        use_cpu=precision == "bfloat16" and inference_device().type == "cpu",
        eval_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_strategy="epoch" if best else "no",
        load_best_model_at_end=best,
        metric_for_best_model=primary_metric,
        remove_unused_columns=False,
        report_to="none",  # our own callbacks report: TensorBoard needs a folder and a step
        disable_tqdm=True,
    )
