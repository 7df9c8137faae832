"""The part `sweep`: what `kd sweep` varies, each key between two numbers or over a list."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from kdcli.recipe.base import Spec

# Data and teacher are the same for all trials, which share what is made of them.
VARIES = ("distill", "student")


class RangeSpec(Spec):
    """The numbers from one to another; whole ones where both are written so."""

    low: int | float = Field(description="The least of them.")
    high: int | float = Field(description="The largest of them.")
    log: bool = Field(
        False, description="Whether each tenfold step is tried as often as any other."
    )

    @model_validator(mode="after")
    def _upwards(self) -> "RangeSpec":
        if self.low >= self.high:
            raise ValueError(f"has low: {self.low:g}, which is not below high: {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("has log: true, and doesn't begin above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether its numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def probes(self) -> tuple[float, ...]:
        """Some of its numbers, to try whether a key takes them: both ends, and between."""
        between = self.low + (self.high - self.low) * 0.618
        return self.low, self.high, int(between) if self.whole else between


def _either(values: Any) -> Any:
    if isinstance(values, dict | list | tuple | RangeSpec):
        return values
    raise ValueError(
        "must be a list of values, or a range such as {low: 1.0e-5, high: 1.0e-3, log: true}"
    )


Choices = Annotated[tuple[Any, ...], Field(min_length=1)]
Values = Annotated[RangeSpec | Choices, BeforeValidator(_either)]
Space = Mapping[str, Values]


def probes(values: RangeSpec | tuple[Any, ...]) -> tuple[Any, ...]:
    """What of the values a recipe has to take, for it to take all of them."""
    return values.probes if isinstance(values, RangeSpec) else values
