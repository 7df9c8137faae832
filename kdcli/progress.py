"""How work tells what it is doing, without knowing who listens."""

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Who is told of progress: a terminal, a log, nobody."""

    def start(self, stage: str, description: str) -> None:
        """A stage begins; `description` says in a few words what it does."""

    def advance(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """`done` of `total` units of the present stage are through; `metrics` are its latest."""

    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        """A stage is over, `seconds` after it began."""

    def info(self, message: str) -> None:
        """A fact that the user should know, in one sentence."""


class SilentReporter:
    """Tells nobody: for use as a library, and in tests."""

    def start(self, stage: str, description: str) -> None:
        """Do nothing."""

    def advance(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Do nothing."""

    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        """Do nothing."""

    def info(self, message: str) -> None:
        """Do nothing."""


class ProgressCounter:
    """Adds up the progress of several passes that make one stage.

    Args:
        reporter: Told of the sum.
        total: Units in all passes together.
    """

    def __init__(self, reporter: Reporter, total: int) -> None:
        self.reporter, self.total, self.finished = reporter, total, 0

    def __call__(self, done: int, pass_total: int) -> None:
        """`done` of the `pass_total` units of the present pass are through."""
        self.reporter.advance(self.finished + done, self.total)
        if done == pass_total:
            self.finished += pass_total
