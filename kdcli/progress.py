"""Interface through which long-running work reports its progress."""

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Receiver of progress reports: a terminal, a log, or nothing."""

    def start(self, stage: str, description: str) -> None:
        """Report that a stage begins; `description` says in a few words what it does."""

    def advance(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Report that `done` of `total` units are finished, with the latest metrics."""

    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        """Report that a stage ended after `seconds`."""

    def info(self, message: str) -> None:
        """Report a fact that the user should know, in one sentence."""


class SilentReporter:
    """Reporter that ignores everything, for use as a library and in tests."""

    def start(self, stage: str, description: str) -> None:
        """Do nothing."""

    def advance(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
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
