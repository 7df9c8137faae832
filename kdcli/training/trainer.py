"""One fit for teacher and student: transformers' `Trainer` with a loss of named terms."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kdcli.data.encode import TEACHER_LOGITS, LikeLengths, lengths
from kdcli.errors import MachineError, MendableError
from kdcli.evaluation.metrics import accuracy
from kdcli.models.forward import collator_for
from kdcli.progress import Reporter
from kdcli.recipe.schema import FitSpec
from kdcli.run import Cadence
from kdcli.training.checkpoints import Keeper, newest, stop_requests, stopped
from kdcli.training.compact import occurring_rows, stands_alone
from kdcli.training.losses import Objective, total

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TARGETS = ("labels", TEACHER_LOGITS)


@dataclass(frozen=True)
class Epoch:
    """A row of the training's table.

    Attributes:
        epoch: Counted from 1.
        step: Optimiser steps so far.
        training_loss: Mean over the epoch's steps.
        training_terms: The same for each weighted term.
        validation_loss: The same loss on validation.
        validation_terms: The same for each weighted term.
        accuracy: On validation.
    """

    epoch: int
    step: int
    training_loss: float
    training_terms: Mapping[str, float]
    validation_loss: float
    validation_terms: Mapping[str, float]
    accuracy: float


def fit(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    train: "Dataset",
    validation: "Dataset",
    *,
    spec: FitSpec,
    objective: Objective,
    seed: int,
    scratch: Path,
    log: Path,
    reporter: Reporter,
    checkpoint_every: Cadence = Cadence(),
) -> list[Epoch]:
    """Train `model` in place, from the newest whole checkpoint in `scratch` where there is one.

    A run that was broken off and goes on ends in the same bits as an unbroken one (on the same
    machine and CPU threads).

    Args:
        model: A sequence classifier.
        tokenizer: Pads its batches.
        train: Encoded rows with `labels`, and what else the objective reads.
        validation: The same; measured after every epoch.
        spec: Rates, sizes, epochs.
        objective: Gives the loss's weighted terms.
        seed: Of the order of the rows and of dropout.
        scratch: A folder for checkpoints of this very fit, and no other's.
        log: A JSON-lines file for the figures of every epoch.
        reporter: Told of every step.
        checkpoint_every: How often a checkpoint is written.

    Returns:
        One row for each epoch.

    Raises:
        MendableError: The loss is no longer a number.
        MachineError: There is no room for checkpoints.
        StoppedError: Ctrl-C or SIGTERM; a checkpoint is written.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    checkpoint, memory = newest(scratch) or (None, {"sums": {}, "counts": {}})
    if checkpoint is not None:
        reporter.say(f"Going on from {checkpoint.name.replace('-', ' at step ')}.")
    _refuse_without_room(model, scratch)
    with (
        _smallest_table(model, spec, (train, validation)) as place,
        stop_requests() as request,
    ):
        trainer = _Trainer(
            model=model,
            args=_arguments(spec, seed, scratch),
            train_dataset=train,
            # Like lengths side by side: a pass over them pads little.
            eval_dataset=validation.select(np.argsort(lengths(validation), kind="stable")),
            processing_class=tokenizer,
            data_collator=collator_for(model, tokenizer, place),
            compute_metrics=_accuracy,
            callbacks=[_Progress(reporter, log), Keeper(checkpoint_every, request, memory)],
        )
        trainer.objective, trainer.memory = objective, memory
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        state = trainer.state
        # The Trainer returns from a stop as from an end.
        if state.global_step < state.max_steps:
            raise stopped(request, state.global_step, state.max_steps)
    return _epochs(state.log_history)


def _refuse_without_room(model: "PreTrainedModel", folder: Path) -> None:
    """Before hours are spent: a full disk in the middle would end the run."""
    one = sum(p.numel() * p.element_size() for p in model.parameters())
    # Weights and Adam's two moments: two checkpoints are kept while a third is written, and the
    # finished model comes beside them.
    needed, free = 3 * 3 * one + one, shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{folder} has room for {free / 1e6:,.0f} MB, and training needs up to "
            f"{needed / 1e6:,.0f} MB for checkpoints.",
            "Make room, or name another --output.",
        )


def _smallest_table(
    model: "PreTrainedModel", spec: FitSpec, splits: Sequence["Dataset"]
) -> AbstractContextManager[Tensor | None]:
    # Weight decay moves rows without a gradient too.
    if spec.weight_decay or not stands_alone(model):
        return nullcontext()
    return occurring_rows(model, splits)


def versions() -> dict[str, str]:
    """The versions of what trains, for the card."""
    from importlib.metadata import version

    names = {"Transformers": "transformers", "PyTorch": "torch"}
    names |= {"Datasets": "datasets", "Tokenizers": "tokenizers"}
    return {title: version(name) for title, name in names.items()}


def steps(rows: int, spec: FitSpec, processes: int = 1) -> int:
    """How many optimiser steps a fit takes."""
    batches = -(-rows // (spec.batch_size * processes))
    return -(-batches // spec.gradient_accumulation) * spec.epochs


class _Trainer(Trainer):
    """A `Trainer` whose loss is a sum of named terms, each logged apart."""

    objective: Objective
    memory: dict[str, Any]  # sums and counts of each term since the last log, by name

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # The loss is a mean over its batch: without this it would grow with accumulation.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        targets = {name: inputs[name] for name in _TARGETS if name in inputs}
        outputs = model(**{name: t for name, t in inputs.items() if name not in targets})
        terms = self.objective(outputs.logits, targets)
        loss = total(terms)
        values = {name: value.item() for name, value in terms.items()}
        if not all(map(math.isfinite, values.values())):
            raise MendableError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1} "
                f"({', '.join(f'{name} {value:.4g}' for name, value in values.items())}), "
                f"on rows {', '.join(map(str, self._rows_of_this_step()))} of the training data.",
                "Lower the learning rate, or clip the gradient (max_grad_norm).",
            )
        if model.training:
            self._remember(values, "loss", 1)
        else:
            # A mean over texts: the last batch may be a short one.
            self._remember(values, "eval_loss", len(outputs.logits))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for whole in ("loss", "eval_loss"):
            if whole in logs:
                terms = self._means(whole)
                # The Trainer's own mean forgets what was before a checkpoint.
                logs[whole] = sum(terms.values())
                logs |= {f"{whole}/{name}": value for name, value in terms.items()}
        super().log(logs, start_time)

    def _remember(self, values: Mapping[str, float], whole: str, weight: int) -> None:
        sums = self.memory["sums"].setdefault(whole, {})
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + weight * value
        self.memory["counts"][whole] = self.memory["counts"].get(whole, 0) + weight

    def _means(self, whole: str) -> dict[str, float]:
        """The mean of each term since it was last asked for, over all processes."""
        count = self.memory["counts"].pop(whole)
        sums = self.memory["sums"].pop(whole)
        summed = torch.tensor([*sums.values(), count], dtype=torch.float64)
        if self.accelerator.num_processes > 1:
            summed = self.accelerator.reduce(summed.to(self.args.device), "sum")
        *totals, count = summed.tolist()
        return {name: value / count for name, value in zip(sums, totals, strict=True)}

    def _get_train_sampler(self, train_dataset: Any = None) -> LikeLengths:
        rows = self.train_dataset if train_dataset is None else train_dataset
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps
        self._sampler = LikeLengths(lengths(rows), together * self.args.world_size, self.args.seed)
        return self._sampler

    def _rows_of_this_step(self) -> list[int]:
        """The rows of the present optimiser step on all processes, counted from 1."""
        together = self._sampler.batch_size
        start = self.state.global_step % -(-len(self._sampler) // together) * together
        return sorted(row + 1 for row in list(self._sampler)[start : start + together])


class _Progress(TrainerCallback):
    def __init__(self, reporter: Reporter, log: Path) -> None:
        self.reporter, self.log = reporter, log
        log.parent.mkdir(parents=True, exist_ok=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        lines = (json.dumps(row) + "\n" for row in state.log_history)
        self.log.write_text("".join(lines))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.reporter.advance(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps({**logs, "step": state.global_step}) + "\n")
        shown = {"loss": "loss", "eval_loss": "validation loss", "eval_accuracy": "accuracy"}
        figures = {name: logs[key] for key, name in shown.items() if key in logs}
        self.reporter.advance(state.global_step, state.max_steps, figures)


def _arguments(spec: FitSpec, seed: int, scratch: Path) -> TrainingArguments:
    best = spec.keep == "best"
    return TrainingArguments(
        output_dir=str(scratch),
        learning_rate=spec.learning_rate,
        per_device_train_batch_size=spec.batch_size,
        per_device_eval_batch_size=spec.batch_size,
        num_train_epochs=spec.epochs,
        gradient_accumulation_steps=spec.gradient_accumulation,
        lr_scheduler_type=spec.schedule,
        warmup_steps=spec.warmup,
        adam_beta1=spec.betas[0],
        adam_beta2=spec.betas[1],
        adam_epsilon=spec.epsilon,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        seed=seed,
        eval_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_strategy="epoch" if best else "no",
        load_best_model_at_end=best,
        metric_for_best_model="accuracy",
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _accuracy(prediction: Any) -> dict[str, float]:
    logits = prediction.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    return {"accuracy": accuracy(logits.argmax(-1), prediction.label_ids)}


def _epochs(history: list[dict[str, float]]) -> list[Epoch]:
    trained = {row["step"]: row for row in history if "loss" in row}
    return [
        Epoch(
            epoch=round(row["epoch"]),
            step=int(row["step"]),
            training_loss=trained[row["step"]]["loss"],
            training_terms=_terms(trained[row["step"]], "loss/"),
            validation_loss=row["eval_loss"],
            validation_terms=_terms(row, "eval_loss/"),
            accuracy=row["eval_accuracy"],
        )
        for row in history
        if "eval_loss" in row
    ]


def _terms(row: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
