"""History of a training: losses and metrics of every epoch, as a table and a log file."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from kdcli import distributed
from kdcli.progress import Reporter
from kdcli.recipe.renamed_keys import current_loss_name

_SECONDS_BETWEEN_LOSSES = 0.5


@dataclass(frozen=True)
class EpochMetrics:
    """Losses and primary metric of an epoch: a row of the training's table.

    Attributes:
        epoch: Counted from 1.
        step: Optimiser steps so far.
        training_loss: Mean over the epoch's rows, each at the step that it was part of.
        training_terms: The same for each weighted loss, by its name.
        validation_loss: Mean over the validation rows after the epoch.
        validation_terms: The same for each weighted loss.
        validation_metrics: The task's primary metric on validation, by its name.
    """

    epoch: int
    step: int
    training_loss: float
    training_terms: Mapping[str, float]
    validation_loss: float
    validation_terms: Mapping[str, float]
    validation_metrics: Mapping[str, float]

    def to_row(self) -> dict[str, Any]:
        """Return the fields as a dictionary, with the metrics as entries of their own."""
        row = asdict(self)
        metrics: dict[str, float] = row.pop("validation_metrics")
        return row | metrics


def epoch_metrics_from_log(
    log_history: list[dict[str, float]], primary_metric: str
) -> list[EpochMetrics]:
    """Return a row for each evaluated epoch of a Trainer's log.

    Args:
        log_history: The Trainer's.
        primary_metric: The task's.
    """
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
    terms: dict[str, float] = {}
    for key, value in log_entry.items():
        if key.startswith(prefix):
            # An epoch may have begun under an old name: its shares of the mean add up.
            name = current_loss_name(key.removeprefix(prefix))
            terms[name] = terms.get(name, 0.0) + value
    return terms


class ReporterCallback(TrainerCallback):
    """Report each step, and write the log's entries as JSON lines.

    Args:
        reporter: Gets steps and metrics.
        log_file: Its folder is created.
        primary_metric: The metric that is reported beside the losses.
        loss_sums: `sums` of each loss since the epoch began, over `rows`; the trainer updates it.
    """

    def __init__(
        self,
        reporter: Reporter,
        log_file: Path,
        primary_metric: str,
        loss_sums: Mapping[str, Any],
    ) -> None:
        self.reporter, self.log_file, self.primary_metric = reporter, log_file, primary_metric
        self.loss_sums, self.started_at, self.epoch_loss = loss_sums, time.monotonic(), 0.0
        self.loss_shown_at = self.started_at
        log_file.parent.mkdir(parents=True, exist_ok=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the log file, with the entries up to the checkpoint that training resumes from."""
        self.started_at = time.monotonic()
        if distributed.is_main_process():
            lines = (json.dumps(row) + "\n" for row in state.log_history)
            self.log_file.write_text("".join(lines))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the step, and from time to time the mean loss of the epoch so far."""
        self.reporter.advance(state.global_step, state.max_steps)
        now, rows = time.monotonic(), self.loss_sums["rows"]
        if rows and now - self.loss_shown_at >= _SECONDS_BETWEEN_LOSSES:
            self.loss_shown_at = now
            loss = sum(self.loss_sums["sums"].values()) / rows
            self.reporter.advance(state.global_step, state.max_steps, {"loss": loss})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Append the entry to the log file, and report its metrics."""
        if distributed.is_main_process():
            with self.log_file.open("a") as file:
                file.write(json.dumps({**logs, "step": state.global_step}) + "\n")
        shown = {"loss": "loss", "eval_loss": "validation loss"}
        shown[f"eval_{self.primary_metric}"] = self.primary_metric
        metrics = {name: logs[key] for key, name in shown.items() if key in logs}
        self.epoch_loss = logs.get("loss", self.epoch_loss)
        if "eval_loss" in logs:
            self.reporter.epoch(
                round(state.epoch),
                state.global_step,
                {"loss": self.epoch_loss, **metrics},
                time.monotonic() - self.started_at,
            )
        self.reporter.advance(state.global_step, state.max_steps, metrics)
