"""What a sweep varies: the recipe's own space, or one that suits most recipes."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcli.losses.base import Loss, TemperatureLoss
from kdcli.recipe.schema import Recipe
from kdcli.recipe.sweep import RangeConfig, SearchSpace

if TYPE_CHECKING:
    from optuna.trial import Trial

_LEARNING_RATE_RANGE = RangeConfig(low=1e-5, high=1e-3, log=True)
_TEMPERATURE_RANGE = RangeConfig(low=1.0, high=8.0)
_WEIGHT_RANGE_FACTOR = 10.0
# Of the teacher's layers.
_LAYER_FRACTIONS = (1 / 4, 1 / 3, 1 / 2, 2 / 3)


def default_or_stated_space(recipe: Recipe, teacher_layers: int) -> SearchSpace:
    """What is varied: what the recipe says, or the usual.

    Args:
        recipe: Its own `sweep` wins; its losses are spelt out.
        teacher_layers: How many layers the teacher has.
    """
    if recipe.sweep:
        return recipe.sweep
    space: dict[str, Any] = {"distill.learning_rate": _LEARNING_RATE_RANGE}
    terms = recipe.distill.losses or ()
    for i, term in enumerate(terms):
        if isinstance(term, TemperatureLoss) and isinstance(term.temperature, float):
            space[f"distill.losses.{i}.temperature"] = _TEMPERATURE_RANGE
    space |= _loss_weight_ranges(terms)
    if recipe.student.model is None:
        layers = sorted({max(1, round(share * teacher_layers)) for share in _LAYER_FRACTIONS})
        space["student.layers"] = tuple(layers)
    return space


def _loss_weight_ranges(terms: Sequence[Loss]) -> dict[str, RangeConfig]:
    # What counts is one weight over another: the last one stays.
    return {
        f"distill.losses.{i}.weight": RangeConfig(
            low=term.weight / _WEIGHT_RANGE_FACTOR,
            high=term.weight * _WEIGHT_RANGE_FACTOR,
            log=True,
        )
        for i, term in enumerate(terms[:-1])
        if isinstance(term.weight, float) and term.weight > 0
    }


def suggest_values(trial: "Trial", space: SearchSpace) -> None:
    """Give a trial its values; what it has already stays. A choice is its JSON: it may be a list.

    Args:
        trial: Optuna's.
        space: What varies.
    """
    for key, values in space.items():
        if not isinstance(values, RangeConfig):
            trial.suggest_categorical(key, [json.dumps(value) for value in values])
        elif values.is_integer:
            trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
        else:
            trial.suggest_float(key, values.low, values.high, log=values.log)


def space_to_json(space: SearchSpace) -> dict[str, Any]:
    """A space as JSON has it."""
    return {
        key: values.model_dump(mode="json") if isinstance(values, RangeConfig) else list(values)
        for key, values in space.items()
    }


def decode_optuna_params(optuna_params: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's values by their keys, from Optuna's."""
    return {k: json.loads(v) if isinstance(v, str) else v for k, v in optuna_params.items()}


def recipe_values_in_space(recipe: Recipe, space: SearchSpace) -> dict[str, Any]:
    """The recipe's own values, as far as they lie in the space, as Optuna has them."""
    found: dict[str, Any] = {}
    whole = recipe.model_dump(mode="json")
    for key, values in space.items():
        value: Any = whole
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else (value or {}).get(part)
        if not isinstance(values, RangeConfig):
            text = json.dumps(value)
            if text in map(json.dumps, values):
                found[key] = text
        elif isinstance(value, int | float) and values.low <= value <= values.high:
            found[key] = value
    return found


def short_parameter_names(keys: Sequence[str], recipe: Recipe) -> dict[str, str]:
    """Short names of the space's keys: `layers`, `soft_targets temperature`."""
    found = {}
    for key in keys:
        _, *parts = key.split(".")
        if len(parts) == 3 and parts[0] == "losses":
            parts = [(recipe.distill.losses or ())[int(parts[1])].kind, parts[2]]
        found[key] = " ".join(parts)
    return found


def format_value(value: Any) -> str:
    """A value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
