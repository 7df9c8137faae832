"""What is known of a sweep's trials, and which of them are worth keeping."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, TypeVar

_Item = TypeVar("_Item")
TrialState = Literal["running", "done", "pruned", "failed"]


@dataclass(frozen=True)
class StudentSize:
    """How large a student is, by what can be counted: each of these makes it slower or larger.

    Attributes:
        layers: That a token goes through.
        parameters: All of them.
        flops_per_token: Operations of a forward pass for each token.
    """

    layers: int
    parameters: int
    flops_per_token: float

    def no_larger_than(self, other: "StudentSize") -> bool:
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
    state: TrialState
    settings: Mapping[str, Any]
    shape: StudentSize | None = None
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


_MIN_COMPARED_TRIALS = 4


def should_prune(trial: Trial, epoch: int, accuracy: float, trials: Sequence[Trial]) -> bool:
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
        and other.shape.no_larger_than(trial.shape)
        and other.epochs
        and epoch in other.epochs
    )
    return len(others) >= _MIN_COMPARED_TRIALS and accuracy < others[len(others) // 2]


def non_dominated_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Select the finished trials that are on the Pareto front of accuracy and size.

    Of equal trials the earliest is kept.

    Returns:
        The trials, by number.
    """

    def rank(trial: Trial) -> tuple[float, ...]:
        assert trial.shape is not None
        assert trial.accuracy is not None
        return (-trial.accuracy, *astuple(trial.shape), trial.number)

    def no_larger(trial: Trial, other: Trial) -> bool:
        assert trial.shape is not None
        assert other.shape is not None
        return trial.shape.no_larger_than(other.shape)

    done = sorted((trial for trial in trials if trial.state == "done"), key=rank)
    return sorted(drop_dominated(done, no_larger), key=lambda trial: trial.number)


def drop_dominated(
    ranked: Iterable[_Item], no_costlier: Callable[[_Item, _Item], bool]
) -> list[_Item]:
    """Filter a ranking to its Pareto front.

    Args:
        ranked: The most accurate first; of equally accurate ones the cheapest first.
        no_costlier: Whether its first argument costs no more than its second.

    Returns:
        The items that no earlier one of the result dominates, in the order of `ranked`.
    """
    front: list[_Item] = []
    for item in ranked:
        if not any(no_costlier(better, item) for better in front):
            front.append(item)
    return front
