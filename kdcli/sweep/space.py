"""What a sweep varies: the recipe's own space, or one that suits most recipes."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcli.recipe.losses import LossSpec, SoftenedSpec
from kdcli.recipe.schema import Recipe
from kdcli.recipe.sweep import RangeSpec, Space

if TYPE_CHECKING:
    from optuna.trial import Trial

_LEARNING_RATE = RangeSpec(low=1e-5, high=1e-3, log=True)
_TEMPERATURE = RangeSpec(low=1.0, high=8.0)
_TIMES = 10.0
# Of the teacher's layers.
_SHARES = (1 / 4, 1 / 3, 1 / 2, 2 / 3)


def space_of(recipe: Recipe, depth: int) -> Space:
    """What is varied: what the recipe says, or the usual.

    Args:
        recipe: Its own `sweep` wins; its losses are spelt out.
        depth: How many layers the teacher has.
    """
    if recipe.sweep:
        return recipe.sweep
    space: dict[str, Any] = {"distill.learning_rate": _LEARNING_RATE}
    terms = recipe.distill.losses or ()
    for i, term in enumerate(terms):
        if isinstance(term, SoftenedSpec) and isinstance(term.temperature, float):
            space[f"distill.losses.{i}.temperature"] = _TEMPERATURE
    space |= _weights(terms)
    if recipe.student.model is None:
        layers = sorted({max(1, round(share * depth)) for share in _SHARES})
        space["student.layers"] = tuple(layers)
    return space


def _weights(terms: Sequence[LossSpec]) -> dict[str, RangeSpec]:
    # What counts is one weight over another: the last one stays.
    return {
        f"distill.losses.{i}.weight": RangeSpec(
            low=term.weight / _TIMES, high=term.weight * _TIMES, log=True
        )
        for i, term in enumerate(terms[:-1])
        if isinstance(term.weight, float) and term.weight > 0
    }


def draw(trial: "Trial", space: Space) -> None:
    """Give a trial its values; what it has already stays. A choice is its JSON: it may be a list.

    Args:
        trial: Optuna's.
        space: What varies.
    """
    for key, values in space.items():
        if not isinstance(values, RangeSpec):
            trial.suggest_categorical(key, [json.dumps(value) for value in values])
        elif values.whole:
            trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
        else:
            trial.suggest_float(key, values.low, values.high, log=values.log)


def described(space: Space) -> dict[str, Any]:
    """A space as JSON has it."""
    return {
        key: values.model_dump(mode="json") if isinstance(values, RangeSpec) else list(values)
        for key, values in space.items()
    }


def settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's values by their keys, from Optuna's."""
    return {k: json.loads(v) if isinstance(v, str) else v for k, v in parameters.items()}


def own(recipe: Recipe, space: Space) -> dict[str, Any]:
    """The recipe's own values, as far as they lie in the space, as Optuna has them."""
    found: dict[str, Any] = {}
    whole = recipe.model_dump(mode="json")
    for key, values in space.items():
        value: Any = whole
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else (value or {}).get(part)
        if not isinstance(values, RangeSpec):
            text = json.dumps(value)
            if text in map(json.dumps, values):
                found[key] = text
        elif isinstance(value, int | float) and values.low <= value <= values.high:
            found[key] = value
    return found


def titles(keys: Sequence[str], recipe: Recipe) -> dict[str, str]:
    """Short names of the space's keys: `layers`, `soft_targets temperature`."""
    found = {}
    for key in keys:
        _, *parts = key.split(".")
        if len(parts) == 3 and parts[0] == "losses":
            parts = [(recipe.distill.losses or ())[int(parts[1])].kind, parts[2]]
        found[key] = " ".join(parts)
    return found


def shown(value: Any) -> str:
    """A value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
