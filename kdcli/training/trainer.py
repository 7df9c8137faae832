"""transformers' `Trainer` with a loss that is a sum of named losses."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from kdcli import distributed
from kdcli.data.tokenization.batch_sampler import (
    DistributedBatchSampler,
    length_grouped_order,
    length_sorted_batches,
)
from kdcli.data.tokenization.collator import PaddingCollator
from kdcli.data.tokenization.tokenize import token_lengths
from kdcli.data.tokenization.windows import TEXT_INDEX
from kdcli.errors import UsageError, UserError
from kdcli.losses import default_losses
from kdcli.losses.base import INTERNAL_OUTPUTS, Loss, ModelOutputs, required_teacher_outputs
from kdcli.losses.combined import CombinedLoss, sum_loss_terms
from kdcli.models.padding_invariance import (
    get_forward_argument_names,
    get_pad_token_id,
    needs_equal_lengths,
)
from kdcli.tasks import REGRESSION, SINGLE_LABEL, TASKS, Task
from kdcli.training.hidden_state_cache import ROW_COLUMN, hidden_states_from_batch
from kdcli.training.model_outputs import (
    enable_model_outputs,
    forward_with_hidden,
    map_layers,
)
from kdcli.training.teacher_logits import TEACHER_LOGITS
from kdcli.training.weight_averaging import WeightAveragingCallback

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

_DIVERGENCE_HINT = "Lower the learning rate, or clip the gradient (max_grad_norm)."
_PROJECTIONS_MODULE = "distillation_projections"
_COLUMNS = frozenset({"labels", TEACHER_LOGITS, TEXT_INDEX, ROW_COLUMN})


class DistillationTrainer(Trainer):
    """Train a student on a weighted sum of losses, each logged by its name.

    Use it as any `Trainer`, with a teacher and losses besides:

        trainer = kdcli.DistillationTrainer(
            model=student,
            teacher=teacher,
            losses=[kdcli.losses.SoftTargets(temperature=2.0)],
            args=training_args,
            train_dataset=tokenized_texts,
            processing_class=tokenizer,
        )
        trainer.train()

    The datasets are tokenised: `input_ids` (with what else the models read) and `labels`. A column
    `teacher_logits`, (classes,) for each row, saves running the teacher for losses of logits.

    Args:
        model: The student, a sequence classifier.
        args: As for `Trainer`. An `eval_strategy` other than "no" needs an `eval_dataset`.
        losses: The losses, or a `CombinedLoss` of them. Left out: those of `default_losses`.
        teacher: Reads the same tokens as the student, and has the same classes in the same order.
            Needed unless the losses read labels alone or the dataset has `teacher_logits`.
        data_collator: Left out: pads with the student's own padding token.
        train_dataset: The tokenised training texts.
        eval_dataset: The tokenised validation texts.
        processing_class: The student's tokenizer.
        global_batch_size: Rows of a batch over all processes. Left out:
            `per_device_train_batch_size` times the number of processes.
        sampling_probabilities: For each row its share of an epoch's draws, (rows,), drawn with
            replacement. None takes each row once.
        weight_averaging: The callback whose averaged weights are evaluated.
        loss_sums: `rows` and `sums` of the losses since the last log, of a training that resumes.
        **trainer_arguments: Other arguments of `Trainer`.

    Raises:
        RecipeError: A loss doesn't serve the task, or doesn't suit the two models.
        UsageError: The teacher, its logits or the tokenizer are missing.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        args: "TrainingArguments | None" = None,
        *,
        losses: Sequence[Loss] | CombinedLoss | None = None,
        teacher: "PreTrainedModel | None" = None,
        data_collator: Any = None,
        train_dataset: "Dataset | None" = None,
        eval_dataset: "Dataset | None" = None,
        processing_class: "PreTrainedTokenizerBase | None" = None,
        global_batch_size: int | None = None,
        sampling_probabilities: np.ndarray | None = None,
        weight_averaging: WeightAveragingCallback | None = None,
        loss_sums: dict[str, Any] | None = None,
        **trainer_arguments: Any,
    ) -> None:
        if not isinstance(losses, CombinedLoss):
            losses = _combine_losses(losses, model, teacher)
        _require_teacher_outputs(losses, teacher, train_dataset)
        if data_collator is None:
            data_collator = _default_collator(model, teacher, processing_class)
        if processing_class is not None and (args is None or args.remove_unused_columns):
            names = _COLUMNS | set(processing_class.model_input_names)
            train_dataset, eval_dataset = (
                dataset and _select_columns(dataset, names)
                for dataset in (train_dataset, eval_dataset)
            )
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **trainer_arguments,
        )
        # The loss is a mean over its batch: without this it would grow with accumulation.
        self.model_accepts_loss_kwargs = False
        self.loss_fn = losses.to(self.args.device)
        self.teacher: Any = teacher and teacher.to(self.args.device).eval()
        self.global_batch_size = (
            self.args.train_batch_size * self.args.world_size
            if global_batch_size is None
            else global_batch_size
        )
        self.sampling_probabilities = sampling_probabilities
        self.weight_averaging = weight_averaging
        self.loss_sums: dict[str, Any] = loss_sums or {"sums": {}, "rows": 0}
        # An optimiser step, and which of its batches is computed.
        self._accumulation_position = (-1, 0)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train the student, and the projections of the losses with it; see `Trainer.train`."""
        with projections_attached(self.model, self.loss_fn):
            return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's share of the batches.

        The Trainer's own would fill up the last batch with rows from the beginning.
        """
        rows = len(self.train_dataset)
        return self._make_dataloader(
            self.train_dataset,
            DistributedBatchSampler(rows, self.global_batch_size, self._epoch_order),
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the loss of a batch: the sum of the weighted losses.

        The path from a batch to a loss: this method; `forward_with_hidden`
        (training/model_outputs.py) for the outputs of student and teacher; `CombinedLoss.forward`
        (losses/combined.py), which aligns and weighs; and `forward` of each loss (losses/*.py).

        Args:
            model: The student, perhaps wrapped for several devices.
            inputs: The batch.
            return_outputs: Whether to return the logits too, as `Trainer.predict` needs.
            num_items_in_batch: Ignored: the loss is a mean over rows.

        Returns:
            The loss, weighted by this process's share of the rows; or the plain sum and the logits.

        Raises:
            UserError: The loss isn't finite, or has no gradient.
        """
        logits, terms = self._compute_loss_terms(model, inputs, self.state.global_step)
        if return_outputs:
            return sum_loss_terms(terms), {"logits": logits}
        values, share = _average_terms_across_processes(terms, len(logits))
        rows, share_of_step = self._next_batch_rows_and_weight()
        if not all(map(math.isfinite, values.values())):
            raise UserError(
                f"The loss is {sum(values.values())} at step {self.state.global_step + 1} "
                f"({_format_terms(values)}), "
                f"on rows {', '.join(map(str, self._row_numbers_of_step()))} of the training data.",
                _DIVERGENCE_HINT,
            )
        loss = sum_loss_terms(terms)
        if not loss.requires_grad:
            raise UserError(
                f"The loss ({', '.join(terms)}) has no gradient: no trained weight bears on it.",
                "Choose other losses (distill.losses), or a model whose weights may change.",
            )
        sums = self.loss_sums["sums"]
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value * rows
        self.loss_sums["rows"] += rows
        return loss * (share * share_of_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the loss and each of its terms since the last log."""
        if "loss" in logs:
            # The Trainer's own mean forgets what was before a checkpoint.
            sums, rows = self.loss_sums["sums"], self.loss_sums["rows"]
            logs |= _log_entries("loss", {name: value / rows for name, value in sums.items()})
            self.loss_sums |= {"sums": {}, "rows": 0}
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: "Dataset | None" = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Compute each loss as a mean over the validation texts, and the task's primary metric.

        Args:
            eval_dataset: The tokenised texts. Left out: those of the constructor.
            ignore_keys: Ignored.
            metric_key_prefix: What the metrics' names begin with.

        Raises:
            UserError: The loss isn't finite.
        """
        averaging = self.weight_averaging
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        with nullcontext() if averaging is None else averaging.averaged_weights():
            return self._evaluate_loss_terms(dataset, metric_key_prefix)

    def _evaluate_loss_terms(self, dataset: Any, prefix: str) -> dict[str, float]:
        if dataset is None:
            raise UsageError(
                "There is nothing to evaluate on.", "Give the trainer an eval_dataset."
            )
        rows = token_lengths(dataset)
        equal = needs_equal_lengths(self.model)
        batches = [
            batch.tolist()
            for batch in length_sorted_batches(rows, self.global_batch_size, equal_length=equal)
        ]
        sums: dict[str, float] = {}
        predictions_and_labels: list[tuple[np.ndarray, np.ndarray]] = []
        task = self.loss_fn.task
        self.model.eval()
        for inputs in self._make_dataloader(
            dataset, batches[distributed.rank() :: distributed.world_size()]
        ):
            batch = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                # Ramps have the values of the last step taken.
                logits, terms = self._compute_loss_terms(
                    self.model, batch, self.state.global_step - 1
                )
            # A mean over texts: the last batch may be a short one.
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(logits)
            predictions = task.predict(logits.float().cpu().numpy())
            predictions_and_labels.append((predictions, batch["labels"].cpu().numpy()))
        parts = distributed.all_gather((sums, predictions_and_labels))
        names = parts[0][0]
        means = {name: sum(part.get(name, 0.0) for part, _ in parts) / len(rows) for name in names}
        if not all(map(math.isfinite, means.values())):
            raise UserError(
                f"The loss on validation is {sum(means.values())} after step "
                f"{self.state.global_step} ({_format_terms(means)}).",
                _DIVERGENCE_HINT,
            )
        metrics = _log_entries(f"{prefix}_loss", means)
        pairs = [pair for _, process_pairs in parts for pair in process_pairs]
        all_predictions, labels = (np.concatenate(column) for column in zip(*pairs, strict=True))
        metrics[f"{prefix}_{task.primary_metric}"] = task.score(all_predictions, labels)
        self.log(metrics)
        handler = self.callback_handler
        self.control: Any = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _compute_loss_terms(
        self, model: Any, inputs: dict[str, Tensor], step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's logits, and the weighted losses at a step, counted from 0."""
        needed = self.loss_fn.required_outputs
        student = forward_with_hidden(model, _model_inputs(self.model, inputs), needed)
        teacher = self._teacher_outputs_for_batch(inputs, student) if needed else student
        progress = max(step, 0) / max(self.state.max_steps - 1, 1)
        return student.logits, self.loss_fn(student, teacher, inputs["labels"], progress)

    def _teacher_outputs_for_batch(
        self, inputs: dict[str, Tensor], student_outputs: ModelOutputs
    ) -> ModelOutputs:
        """The teacher's outputs: those in the batch, and the others from the teacher itself."""
        if self.teacher is not None and self._has_to_run_teacher(inputs):
            with torch.no_grad():
                teacher = forward_with_hidden(
                    self.teacher, _model_inputs(self.teacher, inputs), self.loss_fn.required_outputs
                )
        else:
            teacher = ModelOutputs(
                student_outputs.logits.detach(), hidden_states=hidden_states_from_batch(inputs)
            )
        # Logits in the dataset may be the mean of several teachers.
        logits = inputs.get(TEACHER_LOGITS)
        return (
            teacher
            if logits is None
            else replace(teacher, logits=logits.to(student_outputs.logits))
        )

    def _has_to_run_teacher(self, inputs: Mapping[str, Tensor]) -> bool:
        needed = self.loss_fn.required_outputs
        return TEACHER_LOGITS not in inputs or bool(needed & INTERNAL_OUTPUTS)

    def _make_dataloader(self, tokenized: "Dataset", batch_sampler: Any) -> DataLoader[Any]:
        return DataLoader(
            tokenized,
            batch_sampler=batch_sampler,
            collate_fn=self.data_collator,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def _rows_per_step(self) -> int:
        """Rows of an optimiser step, over all processes; an epoch's last step may have fewer."""
        return self.global_batch_size * self.args.gradient_accumulation_steps

    def _epoch_and_offset(self) -> tuple[int, int]:
        """The current epoch, counted from 0, and the index in its order where the step begins."""
        steps = -(-len(self.train_dataset) // self._rows_per_step)
        epoch, step = divmod(self.state.global_step, steps)
        return epoch, step * self._rows_per_step

    def _epoch_order(self) -> np.ndarray:
        """The order of the rows in the current epoch."""
        epoch, _ = self._epoch_and_offset()
        rows = token_lengths(self.train_dataset)
        return length_grouped_order(
            rows, self._rows_per_step, self.args.seed, epoch, self.sampling_probabilities
        )

    def _row_numbers_of_step(self) -> list[int]:
        """The rows of the current optimiser step on all processes, counted from 1."""
        _, start = self._epoch_and_offset()
        return sorted(
            int(row) + 1 for row in self._epoch_order()[start : start + self._rows_per_step]
        )

    def _next_batch_rows_and_weight(self) -> tuple[int, float]:
        """The rows of the batch that is computed now, and its weight in its step.

        The Trainer divides the sum over a step's batches by their number, as if they were of one
        size. A smaller batch has to count for less; the weight is 1 where all are of one size.
        """
        step, number = self._accumulation_position
        number = number + 1 if step == self.state.global_step else 0
        self._accumulation_position = (self.state.global_step, number)
        _, start = self._epoch_and_offset()
        of_step = min(self._rows_per_step, len(self.train_dataset) - start)
        rows = min(self.global_batch_size, of_step - number * self.global_batch_size)
        return rows, rows * -(-of_step // self.global_batch_size) / of_step


@contextmanager
def projections_attached(model: "PreTrainedModel", loss_fn: CombinedLoss) -> Iterator[None]:
    """Within the block the loss's projections are part of the model: trained and checkpointed.

    Raises:
        UserError: There are projections, and several processes.
    """
    if not loss_fn.projections or hasattr(model, _PROJECTIONS_MODULE):
        yield
        return
    if distributed.world_size() > 1:
        raise UserError(
            "Losses that project hidden states can't be shared among processes.",
            "Run in one process, or give the student the teacher's width.",
        )
    model.add_module(_PROJECTIONS_MODULE, loss_fn.projections)
    try:
        yield
    finally:
        delattr(model, _PROJECTIONS_MODULE)


def _combine_losses(
    losses: Sequence[Loss] | None, model: "PreTrainedModel", teacher: "PreTrainedModel | None"
) -> CombinedLoss:
    """The sum of the losses for the student's task, with evenly spread layers to compare."""
    task = _task_of(model)
    losses = default_losses(task) if losses is None else losses
    internal = required_teacher_outputs(losses) & INTERNAL_OUTPUTS
    if not internal:
        return CombinedLoss(losses, task=task)
    if teacher is None:
        raise UsageError(
            "The losses compare what lies within student and teacher, and there is no teacher.",
            "Give the trainer a teacher, or use losses of logits, such as SoftTargets.",
        )
    for one in (model, teacher):
        enable_model_outputs(one, internal)
    return CombinedLoss(losses, map_layers(model, teacher), task=task)


def _task_of(model: "PreTrainedModel") -> Task:
    """The task that a classifier's configuration names; by transformers' rule if it names none."""
    if model.config.problem_type is not None:
        return TASKS[model.config.problem_type]
    return REGRESSION if model.config.num_labels == 1 else SINGLE_LABEL


def _require_teacher_outputs(
    loss_fn: CombinedLoss, teacher: "PreTrainedModel | None", train_dataset: "Dataset | None"
) -> None:
    columns = getattr(train_dataset, "column_names", (TEACHER_LOGITS,))
    if teacher is None and "logits" in loss_fn.required_outputs and TEACHER_LOGITS not in columns:
        raise UsageError(
            f"The losses need the teacher's logits: the dataset has no column {TEACHER_LOGITS}.",
            "Give the trainer a teacher, or add the column.",
        )


def _default_collator(
    model: "PreTrainedModel",
    teacher: "PreTrainedModel | None",
    tokenizer: "PreTrainedTokenizerBase | None",
) -> PaddingCollator:
    if tokenizer is None:
        raise UsageError(
            "Batches need padding.", "Give the trainer a processing_class (tokenizer)."
        )
    models = [model] if teacher is None else [model, teacher]
    names = [name for one in models for name in get_forward_argument_names(one)]
    return PaddingCollator(tokenizer, names, pad_token_id=get_pad_token_id(model))


def _select_columns(dataset: "Dataset", names: set[str] | frozenset[str]) -> "Dataset":
    """The dataset with the columns that a training reads; `label` counts as `labels`."""
    if "label" in dataset.column_names and "labels" not in dataset.column_names:
        dataset = dataset.rename_column("label", "labels")
    return dataset.select_columns([name for name in dataset.column_names if name in names])


def _average_terms_across_processes(
    terms: Mapping[str, Tensor], row_count: int
) -> tuple[dict[str, float], float]:
    """The mean of each term over the rows of all processes, and the weight of this one's rows.

    DistributedDataParallel averages the gradients of processes, not of rows. A process with more
    rows has to count for more; the weight is 1 where all have as many.
    """
    values = {name: value.item() for name, value in terms.items()}
    if distributed.world_size() == 1:
        return values, 1.0
    *sums, all_rows = distributed.all_reduce_sum(
        [*(row_count * value for value in values.values()), row_count]
    )
    means = {name: value / all_rows for name, value in zip(values, sums, strict=True)}
    return means, row_count * distributed.world_size() / all_rows


def _model_inputs(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a batch that a model takes: a teacher may read token types, and its student not.

    The labels are left out: given them, the model would compute a loss of its own.
    """
    names = (name for name in get_forward_argument_names(model) if name != "labels")
    return {name: inputs[name] for name in names if name in inputs}


def _format_terms(terms: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in terms.items())


def _log_entries(loss_name: str, terms: Mapping[str, float]) -> dict[str, float]:
    """A loss and its terms as the Trainer's log calls them."""
    return {
        loss_name: sum(terms.values()),
        **{f"{loss_name}/{name}": v for name, v in terms.items()},
    }
