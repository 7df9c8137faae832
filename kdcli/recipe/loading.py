"""From a path or a name, and --set overrides, to a checked `Recipe`."""

import copy
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import kdcli
from kdcli import paths
from kdcli.errors import RecipeError, UsageError
from kdcli.losses import default_losses
from kdcli.recipe import renamed_keys, strict_yaml, validation
from kdcli.recipe.base import FrozenConfig
from kdcli.recipe.schema import Recipe
from kdcli.recipe.student import MUTUALLY_EXCLUSIVE_KEYS
from kdcli.recipe.sweep import SWEEPABLE_SECTIONS, values_to_validate
from kdcli.recipe.validation import ConfigT, ValidationMistake
from kdcli.safe_files import write_text_atomically
from kdcli.tasks import SINGLE_LABEL, TASKS

# `key=value`, and what the user typed for it where that wasn't --set.
Override = str | tuple[str, str]

_SOURCE_KEY_PATHS: tuple[strict_yaml.KeyPath, ...] = (
    ("data", "dataset"),
    ("data", "unlabeled"),
    ("augment", "model"),
    ("teacher", "model"),
    ("teacher", "file"),
    ("student", "model"),
)


def shipped_recipes_folder() -> Path:
    """The folder of the recipes that come with kd, in a wheel or in a checkout."""
    package = Path(kdcli.__file__).parent
    in_wheel = package / "recipes"
    return in_wheel if in_wheel.is_dir() else package.parent / "recipes"


def shipped_recipe_paths() -> dict[str, Path]:
    """The recipes that come with kd, by name."""
    return {path.stem: path for path in sorted(shipped_recipes_folder().glob("*.yaml"))}


def find_recipe_file(reference: str) -> Path:
    """The file of a recipe given by path, or by the name of one that ships with kd.

    Raises:
        RecipeError: There is none.
    """
    path = paths.expand_local_path(reference)
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"{reference} is a folder, not a recipe.", "Name a YAML file.")
    names = shipped_recipe_paths()
    if reference in names:
        return names[reference]
    close = difflib.get_close_matches(reference, names, n=1)
    raise RecipeError(
        f"There is no recipe {reference}: neither a file nor one of {', '.join(names)}.",
        f"Did you mean {close[0]}?" if close else "",
    )


def is_recipe_reference(reference: str) -> bool:
    """Whether a reference means a recipe rather than a model."""
    return Path(reference).suffix in (".yaml", ".yml") or reference in shipped_recipe_paths()


def load_recipe(reference: str, overrides: Sequence[Override] = ()) -> Recipe:
    """Load and check a recipe.

    A relative path in the file counts from the file's folder, one in an override from the
    working folder; both come back absolute.

    Args:
        reference: A path, or the name of a recipe that ships with kd.
        overrides: `key=value` with dotted keys and YAML values, as `--set` takes them.

    Raises:
        RecipeError: Naming file, line and key.
    """
    path = find_recipe_file(reference)
    document = _parse_mapping(_read_recipe_file(path), path)
    _make_paths_absolute(document, path)
    return _apply_overrides_and_validate(document, str(path), overrides, Recipe)


def config_from_overrides(
    config_class: type[ConfigT],
    overrides: Sequence[Override],
    defaults: dict[str, Any] | None = None,
) -> ConfigT:
    """A part of a recipe that was given by flags, checked as a recipe is.

    Args:
        config_class: What to make: its keys are those that the overrides begin with.
        overrides: `key=value`, each with the flag it came from.
        defaults: What holds where no flag says otherwise.

    Raises:
        RecipeError: Naming the flag.
    """
    return _apply_overrides_and_validate(
        strict_yaml.YamlDocument(defaults or {}), "flags", overrides, config_class
    )


def recipe_for_trial(
    recipe: Recipe, trial_values: Mapping[str, Any], error_prefix: str = "sweep"
) -> Recipe:
    """The recipe of one trial of a sweep.

    Args:
        recipe: What holds for all trials.
        trial_values: Values by their dotted keys; one that says which layers the student has takes
            the place of what the recipe says of that.
        error_prefix: What to call the settings in an error.

    Raises:
        RecipeError: The recipe doesn't take them.
    """
    base = recipe.model_dump(mode="json") | {"sweep": None}
    for ways in MUTUALLY_EXCLUSIVE_KEYS:
        if any(f"student.{way}" in trial_values for way in ways):
            base["student"] |= dict.fromkeys(ways)
    overrides = [
        (f"{key}={json.dumps(value)}", error_prefix) for key, value in trial_values.items()
    ]
    return config_from_overrides(Recipe, overrides, base)


def recipe_summary(path: Path) -> str:
    """What a recipe's first comment says it is for."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def copy_recipe_file(reference: str, destination: Path | None) -> Path:
    """Copy a recipe as it stands, its relative paths made absolute.

    Args:
        reference: A path, or the name of a recipe that ships with kd.
        destination: A file that doesn't exist yet, or a folder; None is the working folder.

    Returns:
        The file written.

    Raises:
        RecipeError: The file exists, or its folder doesn't, or there is no recipe to copy.
    """
    path = find_recipe_file(reference)
    target = destination or Path()
    target = target / path.name if target.is_dir() else target
    if target.exists():
        raise RecipeError(f"{target} exists.", "Name another file.")
    if not target.parent.is_dir():
        raise RecipeError(f"There is no folder {target.parent}.")
    text = _read_recipe_file(path)
    document = _parse_mapping(text, path)
    moved = [
        (document.value_spans[s], absolute)
        for s, absolute in _make_paths_absolute(document, path).items()
    ]
    # From the last to the first: a replacement shifts only what follows it.
    for (start, end), absolute in sorted(moved, reverse=True):
        text = text[:start] + json.dumps(absolute, ensure_ascii=False) + text[end:]
    write_text_atomically(target, text)
    return target


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, with every default written out."""
    return strict_yaml.dump_yaml(recipe.model_dump(mode="json"))


def _parse_mapping(text: str, path: Path) -> strict_yaml.YamlDocument:
    document = strict_yaml.parse_yaml(text, str(path))
    if not isinstance(document.value, dict):
        what = "is empty" if document.value is None else "holds no keys"
        raise RecipeError(f"{path}: {what}.", "Start from one that works: kd recipe list.")
    renamed_keys.update_document(document, str(path))
    return document


def _read_recipe_file(path: Path) -> str:
    try:
        if path.stat().st_size > strict_yaml.MAX_BYTES:
            raise RecipeError(
                f"{path}: is larger than {strict_yaml.MAX_BYTES:,} bytes; no recipe is."
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: is not UTF-8 text.", "Save it as UTF-8.") from error
    except OSError as error:
        raise RecipeError(f"{path}: can't be read: {error.strerror}.") from error


def _make_paths_absolute(
    document: strict_yaml.YamlDocument, path: Path
) -> dict[strict_yaml.KeyPath, str]:
    """Make the paths that a file names absolute; those that were, by source."""
    moved = {}
    for source in (*_SOURCE_KEY_PATHS, *_swept_model_key_paths(document.value)):
        where = f"{path}:{document.line_number(source)}: {'.'.join(map(str, source))}"
        if absolute := _make_path_absolute(document.value, source, path.parent, where):
            moved[source] = absolute
    return moved


def _swept_model_key_paths(recipe_values: dict[str, Any]) -> list[strict_yaml.KeyPath]:
    """Where a sweep names models to choose from."""
    key = "student.model"
    space = recipe_values.get("sweep")
    choices = space.get(key) if isinstance(space, dict) else None
    return [("sweep", key, i) for i in range(len(choices) if isinstance(choices, list) else 0)]


def _make_path_absolute(
    recipe_values: Any, key_path: strict_yaml.KeyPath, base_folder: Path, location: str
) -> str | None:
    """Make a source's path absolute; a Hub id has no file of its name below `base_folder`.

    Returns:
        The absolute path, None where the source is no path.

    Raises:
        RecipeError: No path can be like that; the message begins with `location`.
    """
    part, key = recipe_values, key_path[-1]
    for name in key_path[:-1]:
        part = part.get(name) if isinstance(part, dict) else None
    given = part.get(key) if isinstance(part, dict) else None
    if isinstance(part, list) and isinstance(key, int):
        given = part[key]
    if not isinstance(given, str) or not given:
        return None
    try:
        path = paths.expand_local_path(given, base_folder)
    except UsageError as error:
        raise RecipeError(f"{location}: {error}") from error
    if given.startswith("package:"):
        return None
    if given.startswith((".", "/", "~")) or path.exists() or paths.is_glob(given):
        part[key] = absolute = str(path.resolve())
        return absolute
    return None


def _apply_overrides_and_validate(
    document: strict_yaml.YamlDocument,
    display_name: str,
    overrides: Sequence[Override],
    config_class: type[ConfigT],
) -> ConfigT:
    written = copy.deepcopy(document.value)
    origins: dict[strict_yaml.KeyPath, str] = {}
    for override in overrides:
        text, origin = (override, f"--set {override}") if isinstance(override, str) else override
        _apply_override(document.value, text, origin, origins, config_class)
    found = validation.validate_config(document.value, config_class)
    if not isinstance(found, ValidationMistake):
        if isinstance(found, Recipe):
            _check_sweep_values(found, document, display_name, origins)
        return found
    where = _find_override_origin(found.key_path, origins)
    # What is wrong without the overrides as well is the file's own mistake.
    if where is None or validation.validate_config(written, config_class) == found:
        where = f"{display_name}:{document.line_number(found.key_path)}"
    key = ".".join(map(str, found.key_path)) or "the recipe"
    raise RecipeError(f"{where}: {key} {found.message}.", found.hint)


def _check_sweep_values(
    recipe: Recipe,
    document: strict_yaml.YamlDocument,
    display_name: str,
    origins: Mapping[strict_yaml.KeyPath, str],
) -> None:
    """Whether the recipe takes each value that a sweep may try: alone, and beside the others."""
    space = recipe.sweep or {}
    for key, values in space.items():
        path = ("sweep", key)
        where = f"{_find_override_origin(path, origins) or f'{display_name}:{document.line_number(path)}'}: sweep"
        if key.partition(".")[0] not in SWEEPABLE_SECTIONS:
            raise RecipeError(
                f"{where}: {key} can't vary.",
                f"What can begins with {' or '.join(SWEEPABLE_SECTIONS)}.",
            )
        for value in values_to_validate(values):
            recipe_for_trial(recipe, {key: value}, where)
    if space:
        where = f"{display_name}:{document.line_number(('sweep',))}: sweep"
        recipe_for_trial(
            recipe, {key: values_to_validate(values)[0] for key, values in space.items()}, where
        )


def _apply_override(
    recipe_values: dict[str, Any],
    override: str,
    origin: str,
    origins: dict[strict_yaml.KeyPath, str],
    config_class: type[FrozenConfig],
) -> None:
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
    for source in (*_SOURCE_KEY_PATHS, *_swept_model_key_paths(recipe_values)):
        if path[:1] == source[:1] and path in (source, source[:-1], source[:1]):
            _make_path_absolute(recipe_values, source, Path.cwd(), origin)


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
    """The list at `key_path` where a recipe doesn't write it: its items can be overridden as well."""
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


def _find_override_origin(
    key_path: strict_yaml.KeyPath, origins: Mapping[strict_yaml.KeyPath, str]
) -> str | None:
    """What the user typed that a key's value comes from; None where that is the file."""
    # The last one: a flag comes after what it makes void.
    return next((origins[p] for p in reversed([*origins]) if _is_same_branch(p, key_path)), None)


def _is_same_branch(one: strict_yaml.KeyPath, other: strict_yaml.KeyPath) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]
