"""Interface through which long-running work reports its progress."""

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Receiver of progress reports: a terminal, a log, or nothing."""

    def begin_run(self, stages: Mapping[str, float]) -> None:
        """Report the stages of a run in their order, each with its expected relative duration.

        The duration of a stage that is reused is 0.
        """

    def start(self, stage: str, description: str) -> None:
        """Report that a stage begins; `description` says in a few words what it does."""

    def phase(self, description: str, begin: float = 0.0, end: float = 1.0) -> None:
        """Report that the stage goes on to its next part.

        Args:
            description: What the part does, in a few words.
            begin: Share of the stage's work that is done, from 0 to 1.
            end: The same at the end of the part. `advance` counts the units in between.
        """

    def advance(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Report that `done` of `total` units are finished, with the latest metrics."""

    def epoch(self, epoch: int, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Report the losses and the validation metric of an epoch.

        Args:
            epoch: Counted from 1.
            step: Optimiser steps so far.
            metrics: `loss`, `validation loss` and the primary metric, by its name.
            seconds: Time since the training began or was resumed.
        """

    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        """Report that a stage ended after `seconds`."""

    def info(self, message: str) -> None:
        """Report a fact that the user should know, in one sentence."""


class SilentReporter:
    """Reporter that ignores everything, for use as a library and in tests."""

    def begin_run(self, stages: Mapping[str, float]) -> None:
        """Do nothing."""

    def start(self, stage: str, description: str) -> None:
        """Do nothing."""

    def phase(self, description: str, begin: float = 0.0, end: float = 1.0) -> None:
        """Do nothing."""

    def advance(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Do nothing."""

    def epoch(self, epoch: int, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Do nothing."""

    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        """Do nothing."""

    def info(self, message: str) -> None:
        """Do nothing."""


class StageProgress:
    """Progress of a stage, summed over its several passes.

    Args:
        reporter: Receives the sum.
        total: Number of units in all passes together.
    """

    def __init__(self, reporter: Reporter, total: int) -> None:
        self.reporter, self.total, self.finished = reporter, total, 0

    def __call__(self, done: int, pass_total: int) -> None:
        """Report that `done` of the `pass_total` units of the current pass are finished."""
        self.reporter.advance(self.finished + done, self.total)
        if done == pass_total:
            self.finished += pass_total
