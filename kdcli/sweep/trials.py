"""What is known of a sweep's trials, and which of them are worth keeping."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["running", "done", "pruned", "failed"]


@dataclass(frozen=True)
class Shape:
    """How large a student is, by what can be counted: each of these makes it slower or larger.

    Attributes:
        layers: That a token goes through.
        parameters: All of them.
        flops_per_token: Operations of a forward pass for each token.
    """

    layers: int
    parameters: int
    flops_per_token: float

    def within(self, other: "Shape") -> bool:
        """Whether it is no larger than another in any respect."""
        return (
            self.layers <= other.layers
            and self.parameters <= other.parameters
            and self.flops_per_token <= other.flops_per_token
        )


@dataclass(frozen=True)
class Trial:
    """A trial, as far as it got.

    Attributes:
        number: Counted from 0.
        state: Pruned is one that was given up for being worse than others; failed is one whose
            settings can't be trained with.
        settings: The values it tries, by the recipe's keys.
        shape: Of its student; None where the settings make no student.
        epochs: Validation accuracy after each epoch, by the epoch's number from 1.
        accuracy: The student's on validation; None where it isn't done.
        why: What is wrong with a failed one.
    """

    number: int
    state: State
    settings: Mapping[str, Any]
    shape: Shape | None = None
    epochs: Mapping[int, float] | None = None
    accuracy: float | None = None
    why: str = ""

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"trial {self.number}"

    @property
    def folder(self) -> str:
        """Its run's folder, in the sweep's."""
        return f"trial-{self.number}"


_ENOUGH = 4


def hopeless(trial: Trial, epoch: int, accuracy: float, trials: Sequence[Trial]) -> bool:
    """Whether to give a trial up: it is worse than the median of others no larger.

    This is the median rule (Golovin et al., 2017, Google Vizier, section 3.2.2) among the
    students that it would have to beat: a smaller one needn't be as accurate as a larger.

    Args:
        trial: It has a shape.
        epoch: That it is through.
        accuracy: On validation, after it.
        trials: All of the sweep.
    """
    others = sorted(
        other.epochs[epoch]
        for other in trials
        if other.number != trial.number
        and other.shape
        and trial.shape
        and other.shape.within(trial.shape)
        and other.epochs
        and epoch in other.epochs
    )
    return len(others) >= _ENOUGH and accuracy < others[len(others) // 2]


def worth_keeping(trials: Sequence[Trial]) -> list[Trial]:
    """The finished trials that no other beats: none is as accurate and no larger."""
    done = [trial for trial in trials if trial.state == "done"]
    return [trial for trial in done if not any(_beats(other, trial) for other in done)]


def _beats(one: Trial, other: Trial) -> bool:
    """Whether a trial leaves another nothing; of equals the earlier one."""
    assert one.shape and other.shape
    assert one.accuracy is not None
    assert other.accuracy is not None
    if one.accuracy < other.accuracy or not one.shape.within(other.shape):
        return False
    equal = one.accuracy == other.accuracy and one.shape == other.shape
    return one.number < other.number if equal else True
