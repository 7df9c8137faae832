"""The part `sweep`: what `kd sweep` varies, each key between two numbers or over a list."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from kdcli.recipe.base import FrozenConfig

# Data and teacher are the same for all trials, which share what is made of them.
SWEEPABLE_SECTIONS = ("distill", "student")


class RangeConfig(FrozenConfig):
    """The numbers from one to another; whole ones where both are written so."""

    low: int | float = Field(description="The least of them.")
    high: int | float = Field(description="The largest of them.")
    log: bool = Field(
        False, description="Whether each tenfold step is tried as often as any other."
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> "RangeConfig":
        if self.low >= self.high:
            raise ValueError(f"has low: {self.low:g}, which is not below high: {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("has log: true, and doesn't begin above 0")
        return self

    @property
    def is_integer(self) -> bool:
        """Whether its numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def values_to_validate(self) -> tuple[float, ...]:
        """Some of its numbers, to try whether a key takes them: both ends, and between."""
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
    """What of the values a recipe has to take, for it to take all of them."""
    return values.values_to_validate if isinstance(values, RangeConfig) else values
