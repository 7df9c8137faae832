"""The trials of a sweep, and which of them to prune and to keep."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, TypeVar

_Item = TypeVar("_Item")
TrialState = Literal["running", "done", "pruned", "failed"]


@dataclass(frozen=True)
class StaticCosts:
    """Costs of a student that are counted, not timed: layers, parameters, FLOPs.

    Attributes:
        layers: Number of layers that a token passes through.
        parameters: Number of parameters.
        flops_per_token: Floating-point operations of a forward pass per token.
    """

    layers: int
    parameters: int
    flops_per_token: float

    def no_larger_than(self, other: "StaticCosts") -> bool:
        """Return whether no cost is larger than the other's."""
        return (
            self.layers <= other.layers
            and self.parameters <= other.parameters
            and self.flops_per_token <= other.flops_per_token
        )


@dataclass(frozen=True)
class Trial:
    """The state of a trial.

    Attributes:
        number: Counted from 0.
        state: A pruned trial was stopped because it was worse than others; a failed one has
            hyperparameters that kd can't train with.
        settings: Its hyperparameters, by recipe key.
        shape: Size of its student; None where the hyperparameters make no student.
        epochs: Validation accuracy after each epoch, counted from 1.
        accuracy: Validation accuracy of the student; None until the trial is done.
        why: Reason of the failure.
    """

    number: int
    state: TrialState
    settings: Mapping[str, Any]
    shape: StaticCosts | None = None
    epochs: Mapping[int, float] | None = None
    accuracy: float | None = None
    why: str = ""

    @property
    def name(self) -> str:
        """Name of the trial in messages and tables."""
        return f"trial {self.number}"

    @property
    def folder(self) -> str:
        """Name of its run folder, inside the sweep's."""
        return f"trial-{self.number}"


_MIN_COMPARED_TRIALS = 4


def should_prune(trial: Trial, epoch: int, accuracy: float, trials: Sequence[Trial]) -> bool:
    """Return whether a trial is worse than the median of trials with a student no larger.

    This is the median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2.2), limited to
    the students that it would have to beat: a small student may be less accurate than a large one.

    Args:
        trial: A trial with the size of its student.
        epoch: The epoch that has ended.
        accuracy: Validation accuracy after that epoch.
        trials: All trials of the sweep.
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
