"""The part `sweep`: the search space of `kd sweep`, a range or a list for each key."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from kdcli.recipe.base import FrozenConfig

# Data and teacher are the same for all trials, which share their artifacts.
SWEEPABLE_SECTIONS = ("distill", "student")


class RangeConfig(FrozenConfig):
    """A range of numbers; of integers if both bounds are integers."""

    low: int | float = Field(description="The smallest value.")
    high: int | float = Field(description="The largest value.")
    log: bool = Field(False, description="Sample on a logarithmic scale.")

    @model_validator(mode="after")
    def _check_bounds(self) -> "RangeConfig":
        if self.low >= self.high:
            raise ValueError(f"has low: {self.low:g}, which is not below high: {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("has log: true, but low is not above 0")
        return self

    @property
    def is_integer(self) -> bool:
        """Return whether the values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def values_to_validate(self) -> tuple[float, ...]:
        """Three values to validate a key with: both bounds, and one between."""
        between = self.low + (self.high - self.low) * 0.618
        return self.low, self.high, int(between) if self.is_integer else between


def _validate_list_or_range(values: Any) -> Any:
    if isinstance(values, dict | list | tuple | RangeConfig):
        return values
    raise ValueError(
        "must be a list of values, or a range such as {low: 1.0e-5, high: 1.0e-3, log: true}"
    )


ChoiceList = Annotated[tuple[Any, ...], Field(min_length=1)]
SweepValues = Annotated[RangeConfig | ChoiceList, BeforeValidator(_validate_list_or_range)]
SearchSpace = Mapping[str, SweepValues]


def values_to_validate(values: RangeConfig | tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values that stand for all when a recipe is validated."""
    return values.values_to_validate if isinstance(values, RangeConfig) else values
