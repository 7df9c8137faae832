"""transformers' `Trainer` with a loss of named terms."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from kdcli import distributed
from kdcli.data.tokenization.tokenize import (
    TEACHER_LOGITS,
    DistributedBatchSampler,
    length_grouped_order,
    length_sorted_batches,
    token_lengths,
)
from kdcli.errors import UserError
from kdcli.losses.base import ModelOutputs
from kdcli.losses.combined import CombinedLoss, sum_loss_terms
from kdcli.models.padding import get_forward_argument_names, needs_equal_lengths
from kdcli.training.hidden_state_cache import hidden_states_from_batch
from kdcli.training.model_outputs import forward_with_hidden
from kdcli.training.weight_averaging import WeightAveragingCallback

if TYPE_CHECKING:
    from datasets import Dataset

_DIVERGENCE_HINT = "Lower the learning rate, or clip the gradient (max_grad_norm)."


class DistillationTrainer(Trainer):
    """A `Trainer` whose loss is a sum of named terms, each logged apart."""

    loss_fn: CombinedLoss
    teacher: Any
    weight_averaging: WeightAveragingCallback
    global_batch_size: int  # over all processes
    sampling_probabilities: (
        np.ndarray | None
    )  # of an epoch's draws for each row; None where each is taken once
    loss_sums: dict[str, Any]  # since the last log: the rows, and the sum of each term over them
    _accumulation_position: tuple[int, int] = (-1, 0)  # an optimiser step, and which of its batches

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # The loss is a mean over its batch: without this it would grow with accumulation.
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Each process's share of the batches; the Trainer's own would round the last one up."""
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
        """The sum of the terms, as far as this process answers for it."""
        logits, terms = self._compute_loss_terms(model, inputs, self.state.global_step)
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
        """Note an epoch's figures, each term apart."""
        if "loss" in logs:
            # The Trainer's own mean forgets what was before a checkpoint.
            sums, rows = self.loss_sums["sums"], self.loss_sums["rows"]
            logs |= _log_entries("loss", {name: value / rows for name, value in sums.items()})
            self.loss_sums |= {"sums": {}, "rows": 0}
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean of each term over the validation texts, and the task's headline."""
        with self.weight_averaging.averaged_weights():
            return self._evaluate_loss_terms()

    def _evaluate_loss_terms(self) -> dict[str, float]:
        rows = token_lengths(self.eval_dataset)
        equal = needs_equal_lengths(self.model)
        batches = [
            batch.tolist()
            for batch in length_sorted_batches(rows, self.global_batch_size, equal_length=equal)
        ]
        sums: dict[str, float] = {}
        said: list[tuple[np.ndarray, np.ndarray]] = []
        task = self.loss_fn.task
        self.model.eval()
        for inputs in self._make_dataloader(
            self.eval_dataset, batches[distributed.rank() :: distributed.world_size()]
        ):
            batch = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                # The loss is that of the step before, whose settings it was taken with.
                logits, terms = self._compute_loss_terms(
                    self.model, batch, self.state.global_step - 1
                )
            # A mean over texts: the last batch may be a short one.
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(logits)
            decided = task.predict(logits.float().cpu().numpy())
            said.append((decided, batch["labels"].cpu().numpy()))
        parts = distributed.all_gather((sums, said))
        names = parts[0][0]
        means = {name: sum(part.get(name, 0.0) for part, _ in parts) / len(rows) for name in names}
        if not all(map(math.isfinite, means.values())):
            raise UserError(
                f"The loss on validation is {sum(means.values())} after step "
                f"{self.state.global_step} ({_format_terms(means)}).",
                _DIVERGENCE_HINT,
            )
        metrics = _log_entries("eval_loss", means)
        every = [pair for _, pairs in parts for pair in pairs]
        decisions, truths = (np.concatenate(column) for column in zip(*every, strict=True))
        metrics[f"eval_{task.primary_metric}"] = task.score(decisions, truths)
        self.log(metrics)
        handler = self.callback_handler
        self.control: Any = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _compute_loss_terms(
        self, model: Any, inputs: dict[str, Tensor], step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, and the weighted terms of the loss at a step, counted from 0."""
        asked = self.loss_fn.required_outputs
        student = forward_with_hidden(model, _model_inputs(self.model, inputs), asked)
        teacher = self._teacher_outputs_for_batch(inputs, student) if asked else student
        progress = step / max(self.state.max_steps - 1, 1)
        return student.logits, self.loss_fn(student, teacher, inputs["labels"], progress)

    def _teacher_outputs_for_batch(
        self, inputs: dict[str, Tensor], student_outputs: ModelOutputs
    ) -> ModelOutputs:
        """What the teacher makes of a batch: from disk, and where need be from itself."""
        if self.teacher is not None:
            with torch.no_grad():
                teacher = forward_with_hidden(
                    self.teacher, _model_inputs(self.teacher, inputs), self.loss_fn.required_outputs
                )
        else:
            teacher = ModelOutputs(
                student_outputs.logits.detach(), hidden_states=hidden_states_from_batch(inputs)
            )
        # What is on disk may be the word of several teachers.
        logits = inputs.get(TEACHER_LOGITS)
        return (
            teacher
            if logits is None
            else replace(teacher, logits=logits.to(student_outputs.logits))
        )

    def _make_dataloader(self, tokenized: "Dataset", batch_sampler: Any) -> DataLoader[Any]:
        return DataLoader(
            tokenized,
            batch_sampler=batch_sampler,
            collate_fn=self.data_collator,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def _rows_per_step(self) -> int:
        """The rows of an optimiser step, over all processes; an epoch's last may have fewer."""
        return self.global_batch_size * self.args.gradient_accumulation_steps

    def _epoch_and_offset(self) -> tuple[int, int]:
        """The present epoch, counted from 0, and where in its order the present step begins."""
        steps = -(-len(self.train_dataset) // self._rows_per_step)
        epoch, step = divmod(self.state.global_step, steps)
        return epoch, step * self._rows_per_step

    def _epoch_order(self) -> np.ndarray:
        """The order of the rows in the present epoch."""
        epoch, _ = self._epoch_and_offset()
        rows = token_lengths(self.train_dataset)
        return length_grouped_order(
            rows, self._rows_per_step, self.args.seed, epoch, self.sampling_probabilities
        )

    def _row_numbers_of_step(self) -> list[int]:
        """The rows of the present optimiser step on all processes, counted from 1."""
        _, start = self._epoch_and_offset()
        return sorted(
            int(row) + 1 for row in self._epoch_order()[start : start + self._rows_per_step]
        )

    def _next_batch_rows_and_weight(self) -> tuple[int, float]:
        """The rows of the batch that is computed now, and what it counts for in its step.

        The Trainer takes a step's batches to be alike, and divides their sum by their number: one
        with fewer rows than another has to count for less, where 1 is its due among equals.
        """
        step, number = self._accumulation_position
        number = number + 1 if step == self.state.global_step else 0
        self._accumulation_position = (self.state.global_step, number)
        _, start = self._epoch_and_offset()
        of_step = min(self._rows_per_step, len(self.train_dataset) - start)
        rows = min(self.global_batch_size, of_step - number * self.global_batch_size)
        return rows, rows * -(-of_step // self.global_batch_size) / of_step


def _average_terms_across_processes(
    terms: Mapping[str, Tensor], row_count: int
) -> tuple[dict[str, float], float]:
    """The mean of each term over the rows of all processes, and what this one's rows count for.

    DistributedDataParallel averages the gradients of processes, not of rows: a process with more
    rows than another has to count for more, where 1 is its due among equals.
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
    """What of a batch a model takes: a teacher may read token types, and its student not.

    Given labels, a model would reckon a loss of its own besides.
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
