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

from kdcli import processes
from kdcli.data.encode import (
    TEACHER_LOGITS,
    Batches,
    batches_of_like_length,
    lengths,
    like_lengths,
)
from kdcli.errors import MendableError
from kdcli.models.padding import input_names, needs_equal_lengths
from kdcli.training.averaging import Average
from kdcli.training.objective import Objective, total
from kdcli.training.remembered import told
from kdcli.training.states import Told, tell

if TYPE_CHECKING:
    from datasets import Dataset

_CALMER = "Lower the learning rate, or clip the gradient (max_grad_norm)."


class TermsTrainer(Trainer):
    """A `Trainer` whose loss is a sum of named terms, each logged apart."""

    objective: Objective
    teacher: Any
    average: Average
    batch_size: int  # over all processes
    shares: np.ndarray | None  # of an epoch's draws for each row; None where each is taken once
    memory: dict[str, Any]  # since the last log: the rows, and the sum of each term over them
    _place_in_step: tuple[int, int] = (-1, 0)  # an optimiser step, and which of its batches

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # The loss is a mean over its batch: without this it would grow with accumulation.
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Each process's share of the batches; the Trainer's own would round the last one up."""
        rows = len(self.train_dataset)
        return self._loader(self.train_dataset, Batches(rows, self.batch_size, self._order))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The sum of the terms, as far as this process answers for it."""
        logits, terms = self._forward(model, inputs, self.state.global_step)
        values, share = _over_processes(terms, len(logits))
        rows, share_of_step = self._next_batch()
        if not all(map(math.isfinite, values.values())):
            raise MendableError(
                f"The loss is {sum(values.values())} at step {self.state.global_step + 1} "
                f"({_shown(values)}), "
                f"on rows {', '.join(map(str, self._rows_of_this_step()))} of the training data.",
                _CALMER,
            )
        loss = total(terms)
        if not loss.requires_grad:
            raise MendableError(
                f"The loss ({', '.join(terms)}) has no gradient: no trained weight bears on it.",
                "Choose other losses (distill.losses), or a model whose weights may change.",
            )
        sums = self.memory["sums"]
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value * rows
        self.memory["rows"] += rows
        return loss * (share * share_of_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Note an epoch's figures, each term apart."""
        if "loss" in logs:
            # The Trainer's own mean forgets what was before a checkpoint.
            sums, rows = self.memory["sums"], self.memory["rows"]
            logs |= _named("loss", {name: value / rows for name, value in sums.items()})
            self.memory |= {"sums": {}, "rows": 0}
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean of each term over the validation texts, and the task's headline."""
        with self.average.in_place():
            return self._measured()

    def _measured(self) -> dict[str, float]:
        rows = lengths(self.eval_dataset)
        equal = needs_equal_lengths(self.model)
        batches = [
            batch.tolist() for batch in batches_of_like_length(rows, self.batch_size, equal=equal)
        ]
        sums: dict[str, float] = {}
        said: list[tuple[np.ndarray, np.ndarray]] = []
        task = self.objective.task
        self.model.eval()
        for inputs in self._loader(
            self.eval_dataset, batches[processes.place() :: processes.count()]
        ):
            batch = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                # The loss is that of the step before, whose settings it was taken with.
                logits, terms = self._forward(self.model, batch, self.state.global_step - 1)
            # A mean over texts: the last batch may be a short one.
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(logits)
            decided = task.decide(logits.float().cpu().numpy())
            said.append((decided, batch["labels"].cpu().numpy()))
        parts = processes.gathered((sums, said))
        names = parts[0][0]
        means = {name: sum(part.get(name, 0.0) for part, _ in parts) / len(rows) for name in names}
        if not all(map(math.isfinite, means.values())):
            raise MendableError(
                f"The loss on validation is {sum(means.values())} after step "
                f"{self.state.global_step} ({_shown(means)}).",
                _CALMER,
            )
        metrics = _named("eval_loss", means)
        every = [pair for _, pairs in parts for pair in pairs]
        decisions, truths = (np.concatenate(column) for column in zip(*every, strict=True))
        metrics[f"eval_{task.headline}"] = task.score(decisions, truths)
        self.log(metrics)
        handler = self.callback_handler
        self.control: Any = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _forward(
        self, model: Any, inputs: dict[str, Tensor], step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, and the weighted terms of the loss at a step, counted from 0."""
        asked = self.objective.needs
        student = tell(model, _for(self.model, inputs), asked)
        teacher = self._told(inputs, student) if asked else student
        progress = step / max(self.state.max_steps - 1, 1)
        return student.logits, self.objective(student, teacher, inputs["labels"], progress)

    def _told(self, inputs: dict[str, Tensor], student: Told) -> Told:
        """What the teacher makes of a batch: from disk, and where need be from itself."""
        if self.teacher is not None:
            with torch.no_grad():
                teacher = tell(self.teacher, _for(self.teacher, inputs), self.objective.needs)
        else:
            teacher = Told(student.logits.detach(), hidden=told(inputs))
        # What is on disk may be the word of several teachers.
        logits = inputs.get(TEACHER_LOGITS)
        return teacher if logits is None else replace(teacher, logits=logits.to(student.logits))

    def _loader(self, rows: "Dataset", batches: Any) -> DataLoader[Any]:
        return DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def _rows_a_step(self) -> int:
        """The rows of an optimiser step, over all processes; an epoch's last may have fewer."""
        return self.batch_size * self.args.gradient_accumulation_steps

    def _place_in_epoch(self) -> tuple[int, int]:
        """The present epoch, counted from 0, and where in its order the present step begins."""
        steps = -(-len(self.train_dataset) // self._rows_a_step)
        epoch, step = divmod(self.state.global_step, steps)
        return epoch, step * self._rows_a_step

    def _order(self) -> np.ndarray:
        """The order of the rows in the present epoch."""
        epoch, _ = self._place_in_epoch()
        rows = lengths(self.train_dataset)
        return like_lengths(rows, self._rows_a_step, self.args.seed, epoch, self.shares)

    def _rows_of_this_step(self) -> list[int]:
        """The rows of the present optimiser step on all processes, counted from 1."""
        _, start = self._place_in_epoch()
        return sorted(int(row) + 1 for row in self._order()[start : start + self._rows_a_step])

    def _next_batch(self) -> tuple[int, float]:
        """The rows of the batch that is computed now, and what it counts for in its step.

        The Trainer takes a step's batches to be alike, and divides their sum by their number: one
        with fewer rows than another has to count for less, where 1 is its due among equals.
        """
        step, number = self._place_in_step
        number = number + 1 if step == self.state.global_step else 0
        self._place_in_step = (self.state.global_step, number)
        _, start = self._place_in_epoch()
        of_step = min(self._rows_a_step, len(self.train_dataset) - start)
        rows = min(self.batch_size, of_step - number * self.batch_size)
        return rows, rows * -(-of_step // self.batch_size) / of_step


def _over_processes(terms: Mapping[str, Tensor], rows: int) -> tuple[dict[str, float], float]:
    """The mean of each term over the rows of all processes, and what this one's rows count for.

    DistributedDataParallel averages the gradients of processes, not of rows: a process with more
    rows than another has to count for more, where 1 is its due among equals.
    """
    values = {name: value.item() for name, value in terms.items()}
    if processes.count() == 1:
        return values, 1.0
    *sums, all_rows = processes.summed([*(rows * value for value in values.values()), rows])
    means = {name: value / all_rows for name, value in zip(values, sums, strict=True)}
    return means, rows * processes.count() / all_rows


def _for(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch a model takes: a teacher may read token types, and its student not.

    Given labels, a model would reckon a loss of its own besides.
    """
    names = (name for name in input_names(model) if name != "labels")
    return {name: inputs[name] for name in names if name in inputs}


def _shown(terms: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in terms.items())


def _named(whole: str, terms: Mapping[str, float]) -> dict[str, float]:
    """A loss and its terms as the Trainer's log calls them."""
    return {whole: sum(terms.values()), **{f"{whole}/{name}": v for name, v in terms.items()}}
