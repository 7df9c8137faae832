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

from kdcli import processes
from kdcli.data.encode import Collator, equal_shares, labels_of, lengths
from kdcli.errors import MendableError
from kdcli.models.cls_only import last_layer_cls_only
from kdcli.models.padding import input_names, pad_token_id
from kdcli.progress import Reporter
from kdcli.recipe.fit import FitSpec
from kdcli.run import Cadence
from kdcli.training import restraint, room, trackers
from kdcli.training.averaging import Average
from kdcli.training.checkpoints import Keeper, newest, stop_requests, stopped
from kdcli.training.compact import occurring_rows, stands_alone
from kdcli.training.objective import LIVE, Objective
from kdcli.training.remembered import Remembered
from kdcli.training.trainer import TermsTrainer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROJECTIONS = "distillation_projections"


@dataclass(frozen=True)
class Epoch:
    """A row of the training's table.

    Attributes:
        epoch: Counted from 1.
        step: Optimiser steps so far.
        training_loss: Mean over the epoch's rows, each as it was when its step was taken.
        training_terms: The same for each weighted term.
        validation_loss: The same loss on validation.
        validation_terms: The same for each weighted term.
        figures: The task's headline on validation, by its name.
    """

    epoch: int
    step: int
    training_loss: float
    training_terms: Mapping[str, float]
    validation_loss: float
    validation_terms: Mapping[str, float]
    figures: Mapping[str, float]


def fit(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    train: "Dataset",
    validation: "Dataset",
    *,
    spec: FitSpec,
    objective: Objective,
    teacher: "PreTrainedModel | None" = None,
    remembered: Remembered | None = None,
    seed: int,
    scratch: Path,
    log: Path,
    reporter: Reporter,
    checkpoint_every: Cadence = Cadence(),
    report_to: Sequence[str] = (),
    name: str | None = None,
) -> list[Epoch]:
    """Train `model` in place, from the newest whole checkpoint in `scratch` where there is one.

    A run that was broken off and goes on ends in the same bits as an unbroken one (on the same
    machine, processes and CPU threads). Several processes share each batch: theirs is the loss
    of one process, but for rounding and dropout.

    Args:
        model: A sequence classifier.
        tokenizer: Pads its batches.
        train: Encoded rows with `labels`, and what else the objective reads.
        validation: The same; measured after every epoch.
        spec: Rates, sizes, epochs.
        objective: Gives the loss's weighted terms.
        teacher: Reads the same tokens as the model; needed where the objective looks within it.
        remembered: Its hidden states, where they are on disk instead; the rows have their numbers.
        seed: Of the order of the rows and of dropout.
        scratch: A folder for checkpoints of this very fit, and no other's.
        log: A JSON-lines file for the figures of every epoch; TensorBoard's files lie in a folder
            of its name.
        reporter: Told of every step.
        checkpoint_every: How often a checkpoint is written.
        report_to: Trackers, as transformers calls them.
        name: What they are to call this fit.

    Returns:
        One row for each epoch.

    Raises:
        MendableError: The loss is no longer a number, or has no gradient.
        MachineError: There is no room for checkpoints, or too little memory.
        StoppedError: Ctrl-C or SIGTERM; a checkpoint is written.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    found = processes.from_first(lambda: newest(scratch))
    checkpoint, memory = found or (None, {"sums": {}, "rows": 0})
    if checkpoint is not None:
        reporter.say(f"Going on from {checkpoint.name.replace('-', ' at step ')}.")
    room.refuse_without_room(model, scratch)
    models = [model] if teacher is None else [model, teacher]
    with (
        _smallest_table(models, spec, (train, validation)) as place,
        restraint.frozen(model, spec.freeze),
        restraint.dropout(model, spec.dropout),
        _cls_only(models, objective),
        _beside(model, objective),
        stop_requests() as request,
    ):
        inputs = [name for one in models for name in input_names(one)]
        collate = Collator(tokenizer, inputs, place, pad_token_id(model))
        average = Average(model, spec.average, checkpoint)
        trainer = TermsTrainer(
            model=model,
            args=_arguments(spec, seed, scratch, name, objective.task.headline),
            train_dataset=train,
            # Like lengths side by side: a pass over them pads little.
            eval_dataset=validation.select(np.argsort(lengths(validation), kind="stable")),
            processing_class=tokenizer,
            data_collator=collate if remembered is None else remembered.added_to(collate),
            callbacks=[
                _Progress(reporter, log, objective.task.headline),
                average,
                Keeper(checkpoint_every, request, memory),
                *trackers.start(report_to, log.with_suffix(""), checkpoint, memory),
            ],
        )
        room.refuse_without_memory(model, train, spec)
        trainer.objective, trainer.memory = objective, memory
        trainer.teacher = teacher and teacher.to(trainer.args.device).eval()
        trainer.batch_size = spec.batch_size
        trainer.shares = equal_shares(labels_of(train)) if spec.sampling == "balanced" else None
        trainer.average = average
        trainer.remove_callback(PrinterCallback)
        if processes.count() > 1:
            # With one seed the same places of every process's share would drop out.
            torch.manual_seed(seed + processes.place())
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        state = trainer.state
        # The Trainer returns from a stop as from an end.
        if state.global_step < state.max_steps:
            raise stopped(request, state.global_step, state.max_steps)
        average.put()
    return _epochs(state.log_history, objective.task.headline)


def _smallest_table(
    models: Sequence["PreTrainedModel"], spec: FitSpec, splits: Sequence["Dataset"]
) -> AbstractContextManager[Tensor | None]:
    # Weight decay moves rows without a gradient too.
    if spec.weight_decay or not all(map(stands_alone, models)):
        return nullcontext()
    return occurring_rows(models, splits)


@contextmanager
def _cls_only(models: Sequence["PreTrainedModel"], objective: Objective) -> Iterator[None]:
    """Within the block nothing is computed for tokens that neither head nor loss reads."""
    with ExitStack() as held:
        if not objective.needs & LIVE:
            for model in models:
                held.enter_context(last_layer_cls_only(model))
        yield


@contextmanager
def _beside(model: "PreTrainedModel", objective: Objective) -> Iterator[None]:
    """Within the block the objective's projections are trained, and saved, with the model."""
    if not objective.projections:
        yield
        return
    if processes.count() > 1:
        raise MendableError(
            "Losses that project hidden states can't be shared out among processes.",
            "Run it in one process, or give the student the teacher's width.",
        )
    model.add_module(_PROJECTIONS, objective.projections)
    try:
        yield
    finally:
        delattr(model, _PROJECTIONS)


def versions() -> dict[str, str]:
    """The versions of what trains, for the card."""
    from importlib.metadata import version

    names = {"Transformers": "transformers", "PyTorch": "torch"}
    names |= {"Datasets": "datasets", "Tokenizers": "tokenizers"}
    return {title: version(name) for title, name in names.items()}


class _Progress(TrainerCallback):
    def __init__(self, reporter: Reporter, log: Path, headline: str) -> None:
        self.reporter, self.log, self.headline = reporter, log, headline
        log.parent.mkdir(parents=True, exist_ok=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if processes.is_first():
            lines = (json.dumps(row) + "\n" for row in state.log_history)
            self.log.write_text("".join(lines))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.reporter.advance(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if processes.is_first():
            with self.log.open("a") as file:
                file.write(json.dumps({**logs, "step": state.global_step}) + "\n")
        shown = {"loss": "loss", "eval_loss": "validation loss"}
        shown[f"eval_{self.headline}"] = self.headline
        figures = {name: logs[key] for key, name in shown.items() if key in logs}
        self.reporter.advance(state.global_step, state.max_steps, figures)


def _arguments(
    spec: FitSpec, seed: int, scratch: Path, name: str | None, headline: str
) -> TrainingArguments:
    best = spec.keep == "best"
    return TrainingArguments(
        output_dir=str(scratch),
        run_name=name,
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
        metric_for_best_model=headline,
        remove_unused_columns=False,
        report_to="none",  # trackers.start does it: TensorBoard needs a place, and a step
        disable_tqdm=True,
    )


def _epochs(history: list[dict[str, float]], headline: str) -> list[Epoch]:
    trained = {row["step"]: row for row in history if "loss" in row}
    return [
        Epoch(
            epoch=round(row["epoch"]),
            step=int(row["step"]),
            training_loss=trained[row["step"]]["loss"],
            training_terms=_terms(trained[row["step"]], "loss/"),
            validation_loss=row["eval_loss"],
            validation_terms=_terms(row, "eval_loss/"),
            figures={headline: row[f"eval_{headline}"]},
        )
        for row in history
        if "eval_loss" in row
    ]


def _terms(row: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
