"""One fit for teacher and student: transformers' `Trainer` with a loss of named terms."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kdcli import machine, processes
from kdcli.data.encode import TEACHER_LOGITS, Batches, Collator, lengths, like_lengths
from kdcli.errors import MachineError, MendableError
from kdcli.models.forward import input_names
from kdcli.progress import Reporter
from kdcli.recipe.fit import FitSpec
from kdcli.run import Cadence
from kdcli.training import trackers
from kdcli.training.checkpoints import Keeper, newest, stop_requests, stopped
from kdcli.training.compact import occurring_rows, stands_alone
from kdcli.training.objective import Objective, total
from kdcli.training.states import Told, tell

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
    teacher: "PreTrainedModel | None" = None,
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
    checkpoint, memory = found or (None, {"sums": {}, "batches": 0})
    if checkpoint is not None:
        reporter.say(f"Going on from {checkpoint.name.replace('-', ' at step ')}.")
    _refuse_without_room(model, scratch)
    models = [model] if teacher is None else [model, teacher]
    with (
        _smallest_table(models, spec, (train, validation)) as place,
        _beside(model, objective),
        stop_requests() as request,
    ):
        trainer = _Trainer(
            model=model,
            args=_arguments(spec, seed, scratch, name),
            train_dataset=train,
            # Like lengths side by side: a pass over them pads little.
            eval_dataset=validation.select(np.argsort(lengths(validation), kind="stable")),
            processing_class=tokenizer,
            data_collator=Collator(tokenizer, [n for m in models for n in input_names(m)], place),
            callbacks=[
                _Progress(reporter, log),
                Keeper(checkpoint_every, request, memory),
                *trackers.start(report_to, log.with_suffix(""), checkpoint, memory),
            ],
        )
        _refuse_without_memory(model, train, spec)
        trainer.objective, trainer.memory = objective, memory
        trainer.teacher = teacher and teacher.to(trainer.args.device).eval()
        trainer.batch_size = spec.batch_size
        trainer.remove_callback(PrinterCallback)
        if processes.count() > 1:
            # With one seed the same places of every process's share would drop out.
            torch.manual_seed(seed + processes.place())
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


def _refuse_without_memory(model: "PreTrainedModel", train: "Dataset", spec: FitSpec) -> None:
    """Before hours are spent: the system would end the run without a word.

    The weights are in memory already; gradients and Adam's two moments come beside them, and what
    the backward pass keeps of a batch: by Korthikanti et al. (2022), equation 2, for each layer
    s b h (34 + 5 a s / h) bytes at 16 bits, of which 2 and 1 are masks. Of MiniLM's true need that
    is two thirds: who is refused would not have got through.
    """
    if torch.accelerator.is_available():
        return
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    layers, units, heads = (
        getattr(model.config, name, 0)
        for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    texts, tokens = -(-spec.batch_size // processes.count()), int(lengths(train).max())
    machine.require_memory(
        3 * weights + layers * texts * tokens * (66 * units + 9 * heads * tokens),
        "Training",
        "Take a smaller batch_size (and more gradient_accumulation), or a smaller model.",
    )


def _smallest_table(
    models: Sequence["PreTrainedModel"], spec: FitSpec, splits: Sequence["Dataset"]
) -> AbstractContextManager[Tensor | None]:
    # Weight decay moves rows without a gradient too.
    if spec.weight_decay or not all(map(stands_alone, models)):
        return nullcontext()
    return occurring_rows(models, splits)


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


def steps(rows: int, spec: FitSpec) -> int:
    """How many optimiser steps a fit takes."""
    batches = -(-rows // spec.batch_size)
    return -(-batches // spec.gradient_accumulation) * spec.epochs


class _Trainer(Trainer):
    """A `Trainer` whose loss is a sum of named terms, each logged apart."""

    objective: Objective
    teacher: Any
    batch_size: int  # over all processes
    memory: dict[str, Any]  # since the last log: the batches, and the sum of each term over them

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
        logits, terms = self._forward(model, inputs)
        values, share = _over_processes(terms, len(logits))
        if not all(map(math.isfinite, values.values())):
            raise MendableError(
                f"The loss is {sum(values.values())} at step {self.state.global_step + 1} "
                f"({', '.join(f'{name} {value:.4g}' for name, value in values.items())}), "
                f"on rows {', '.join(map(str, self._rows_of_this_step()))} of the training data.",
                "Lower the learning rate, or clip the gradient (max_grad_norm).",
            )
        loss = total(terms)
        if not loss.requires_grad:
            raise MendableError(
                f"The loss ({', '.join(terms)}) has no gradient: no trained weight bears on it.",
                "Choose other losses (distill.losses), or a model whose weights may change.",
            )
        sums = self.memory["sums"]
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        self.memory["batches"] += 1
        return loss * share

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # The Trainer's own mean forgets what was before a checkpoint.
            sums, batches = self.memory["sums"], self.memory["batches"]
            logs |= _named("loss", {name: value / batches for name, value in sums.items()})
            self.memory |= {"sums": {}, "batches": 0}
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean of each term over the validation texts, and the accuracy."""
        rows = range(len(self.eval_dataset))
        batches = [rows[i : i + self.batch_size] for i in rows[:: self.batch_size]]
        sums: dict[str, float] = {}
        right = 0
        self.model.eval()
        for inputs in self._loader(
            self.eval_dataset, batches[processes.place() :: processes.count()]
        ):
            batch = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                logits, terms = self._forward(self.model, batch)
            # A mean over texts: the last batch may be a short one.
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(logits)
            right += int((logits.argmax(-1) == batch["labels"]).sum())
        parts = processes.gathered((sums, right))
        names = parts[0][0]
        means = {name: sum(part.get(name, 0.0) for part, _ in parts) / len(rows) for name in names}
        metrics = _named("eval_loss", means)
        metrics["eval_accuracy"] = sum(right for _, right in parts) / len(rows)
        self.log(metrics)
        handler = self.callback_handler
        self.control: Any = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _forward(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, and the weighted terms of the loss."""
        asked = self.objective.needs
        student = tell(model, _for(self.model, inputs), asked)
        if self.teacher is not None:
            with torch.no_grad():
                teacher = tell(self.teacher, _for(self.teacher, inputs), asked)
        else:
            teacher = Told(inputs[TEACHER_LOGITS].to(student.logits.dtype)) if asked else student
        progress = self.state.global_step / max(self.state.max_steps, 1)
        return student.logits, self.objective(student, teacher, inputs["labels"], progress)

    def _loader(self, rows: "Dataset", batches: Any) -> DataLoader[Any]:
        return DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=torch.cuda.is_available(),
        )

    def _order(self) -> np.ndarray:
        """The order of the rows in the present epoch."""
        together = self.batch_size * self.args.gradient_accumulation_steps
        rows = lengths(self.train_dataset)
        epoch = self.state.global_step // -(-len(rows) // together)
        return like_lengths(rows, together, self.args.seed, epoch)

    def _rows_of_this_step(self) -> list[int]:
        """The rows of the present optimiser step on all processes, counted from 1."""
        order = self._order()
        together = self.batch_size * self.args.gradient_accumulation_steps
        start = self.state.global_step % -(-len(order) // together) * together
        return sorted(int(row) + 1 for row in order[start : start + together])


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
    """What of a batch a model takes: a teacher may read token types, and its student not."""
    return {name: inputs[name] for name in input_names(model) if name in inputs}


def _named(whole: str, terms: Mapping[str, float]) -> dict[str, float]:
    """A loss and its terms as the Trainer's log calls them."""
    return {whole: sum(terms.values()), **{f"{whole}/{name}": v for name, v in terms.items()}}


class _Progress(TrainerCallback):
    def __init__(self, reporter: Reporter, log: Path) -> None:
        self.reporter, self.log = reporter, log
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
        shown = {"loss": "loss", "eval_loss": "validation loss", "eval_accuracy": "accuracy"}
        figures = {name: logs[key] for key, name in shown.items() if key in logs}
        self.reporter.advance(state.global_step, state.max_steps, figures)


def _arguments(spec: FitSpec, seed: int, scratch: Path, name: str | None) -> TrainingArguments:
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
        metric_for_best_model="accuracy",
        remove_unused_columns=False,
        report_to="none",  # trackers.start does it: TensorBoard needs a place, and a step
        disable_tqdm=True,
    )


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
