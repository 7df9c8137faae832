"""The search space of a sweep: the recipe's, or a default one."""

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
# Fractions of the teacher's layers.
_LAYER_FRACTIONS = (1 / 4, 1 / 3, 1 / 2, 2 / 3)


def default_or_stated_space(recipe: Recipe, teacher_layers: int) -> SearchSpace:
    """Get the recipe's search space, or build a default one.

    Args:
        recipe: A recipe with explicit losses.
        teacher_layers: Number of layers of the teacher.
    """
    if recipe.sweep:
        return recipe.sweep
    space: dict[str, Any] = {"distill.learning_rate": _LEARNING_RATE_RANGE}
    terms = recipe.distill.losses or ()
    for i, term in enumerate(terms):
        if isinstance(term, TemperatureLoss) and isinstance(term.temperature, float):
            space[f"distill.losses.{i}.temperature"] = _TEMPERATURE_RANGE
    space |= _loss_weight_ranges(terms)
    if recipe.student.is_cut_from_teacher:
        layers = sorted({max(1, round(share * teacher_layers)) for share in _LAYER_FRACTIONS})
        space["student.num_hidden_layers"] = tuple(layers)
    return space


def _loss_weight_ranges(terms: Sequence[Loss]) -> dict[str, RangeConfig]:
    # Only the ratios of the weights matter, so the last one is fixed.
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
    """Suggest a value for each key of the space; values that the trial already has stay.

    Choices are encoded as JSON, because Optuna takes no lists.

    Args:
        trial: Optuna's trial.
        space: The search space.
    """
    for key, values in space.items():
        if not isinstance(values, RangeConfig):
            trial.suggest_categorical(key, [json.dumps(value) for value in values])
        elif values.is_integer:
            trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
        else:
            trial.suggest_float(key, values.low, values.high, log=values.log)


def space_to_json(space: SearchSpace) -> dict[str, Any]:
    """Convert a search space to JSON values."""
    return {
        key: values.model_dump(mode="json") if isinstance(values, RangeConfig) else list(values)
        for key, values in space.items()
    }


def decode_optuna_params(optuna_params: Mapping[str, Any]) -> dict[str, Any]:
    """Decode the choices among a trial's values."""
    return {k: json.loads(v) if isinstance(v, str) else v for k, v in optuna_params.items()}


def recipe_values_in_space(recipe: Recipe, space: SearchSpace) -> dict[str, Any]:
    """Get the recipe's own values that lie in the space, encoded for Optuna."""
    params: dict[str, Any] = {}
    recipe_values = recipe.model_dump(mode="json")
    for key, values in space.items():
        value: Any = recipe_values
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else (value or {}).get(part)
        if not isinstance(values, RangeConfig):
            text = json.dumps(value)
            if text in map(json.dumps, values):
                params[key] = text
        elif isinstance(value, int | float) and values.low <= value <= values.high:
            params[key] = value
    return params


def short_parameter_names(keys: Sequence[str], recipe: Recipe) -> dict[str, str]:
    """Shorten the keys of the space for display: `layers`, `soft_targets temperature`."""
    names = {}
    for key in keys:
        _, *parts = key.split(".")
        if len(parts) == 3 and parts[0] == "losses":
            parts = [(recipe.distill.losses or ())[int(parts[1])].kind, parts[2]]
        names[key] = " ".join(parts)
    return names


def format_value(value: Any) -> str:
    """Format a hyperparameter for display."""
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
