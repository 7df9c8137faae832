"""Overrides of recipe keys: `--set KEY=VALUE` and flags."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdcli.errors import RecipeError
from kdcli.losses import default_losses
from kdcli.recipe import renamed_keys, strict_yaml
from kdcli.recipe.base import FrozenConfig
from kdcli.recipe.path_keys import SOURCE_KEY_PATHS, make_path_absolute, swept_model_key_paths
from kdcli.tasks import SINGLE_LABEL, TASKS

# `key=value`, and what the user typed for it if that was not --set.
Override = str | tuple[str, str]


def apply_override(
    recipe_values: dict[str, Any],
    override: str,
    origin: str,
    origins: dict[strict_yaml.KeyPath, str],
    config_class: type[FrozenConfig],
) -> None:
    """Set one key of a recipe's raw values.

    Args:
        recipe_values: The recipe, which is changed.
        override: `key=value`, with a dotted key and a YAML value.
        origin: What the user typed.
        origins: What the user typed, by key path; the override's is added.
        config_class: The config that the values are for.

    Raises:
        RecipeError: The override is malformed, or the recipe has no place for it.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{origin}: is not of the form key=value.")
    written = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    if written[0] == "sweep":
        written = tuple(key.split(".", 1))  # its keys have dots
    path = renamed_keys.current_key_path(written, recipe_values)
    if path != written:
        renamed_keys.warn_renamed(key, ".".join(map(str, path)))
    node: Any = recipe_values
    for i, part in enumerate(path[:-1], start=1):
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = _default_list_items(config_class, path[:i], recipe_values) or {}
        node = _get_item(node, part, origin)
        if not isinstance(node, dict | list):
            raise RecipeError(f"{origin}: {part} is a value and has no keys below it.")
    new = strict_yaml.parse_yaml(text, origin).value
    new = renamed_keys.current_values(new, path, recipe_values)
    if isinstance(node, list):
        _get_item(node, path[-1], origin)
    node[path[-1]] = new
    origins.pop(path, None)
    origins[path] = origin
    for source in (*SOURCE_KEY_PATHS, *swept_model_key_paths(recipe_values)):
        if path[:1] == source[:1] and path in (source, source[:-1], source[:1]):
            make_path_absolute(recipe_values, source, Path.cwd(), origin)


def _get_item(node: Any, key: str | int, origin: str) -> Any:
    if isinstance(node, list):
        if not isinstance(key, int) or key >= len(node):
            raise RecipeError(f"{origin}: there are {len(node)} items, counted from 0, not {key}.")
        return node[key]
    return node[key]


def _default_list_items(
    config_class: type[FrozenConfig],
    key_path: strict_yaml.KeyPath,
    recipe_values: Mapping[str, Any],
) -> list[Any]:
    """Return the default of a list that the recipe leaves out, so that items can be overridden."""
    if key_path == ("distill", "losses"):
        data = recipe_values.get("data")
        task = data.get("task") if isinstance(data, dict) else None
        return [spec.model_dump() for spec in default_losses(TASKS.get(str(task), SINGLE_LABEL))]
    field = config_class.model_fields.get(str(key_path[0]))
    value: Any = field.default if field else None
    for part in key_path[1:]:
        value = getattr(value, str(part), None)
    items = value if isinstance(value, tuple) else ()
    return [item.model_dump() if isinstance(item, BaseModel) else item for item in items]


def find_typed_override(
    key_path: strict_yaml.KeyPath, origins: Mapping[strict_yaml.KeyPath, str]
) -> str | None:
    """Return what the user typed to set a key; None if its value comes from the file."""
    # The last one: a flag comes after the overrides that it replaces.
    return next((origins[p] for p in reversed([*origins]) if _is_same_branch(p, key_path)), None)


def _is_same_branch(first: strict_yaml.KeyPath, second: strict_yaml.KeyPath) -> bool:
    shared = min(len(first), len(second))
    return first[:shared] == second[:shared]
