"""Load a recipe from a path or name, apply overrides, and validate it."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcli.errors import RecipeError
from kdcli.recipe import renamed_keys, strict_yaml, validation
from kdcli.recipe.overrides import Override, apply_override, find_typed_override
from kdcli.recipe.path_keys import make_paths_absolute
from kdcli.recipe.recipe_lookup import find_recipe_file
from kdcli.recipe.schema import Recipe
from kdcli.recipe.student import MUTUALLY_EXCLUSIVE_KEYS
from kdcli.recipe.sweep import SWEEPABLE_SECTIONS, values_to_validate
from kdcli.recipe.validation import ConfigT, ValidationMistake
from kdcli.safe_files import write_text_atomically


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
    make_paths_absolute(document, path)
    return _apply_overrides_and_validate(document, str(path), overrides, Recipe)


def config_from_flags(
    config_class: type[ConfigT],
    overrides: Sequence[Override],
    defaults: dict[str, Any] | None = None,
) -> ConfigT:
    """Build and validate a part of a recipe from flags.

    Args:
        config_class: The config to build: the overrides' keys begin with its keys.
        overrides: `key=value`, each with the flag that it came from.
        defaults: Values of keys that no flag sets.

    Raises:
        RecipeError: Naming the flag.
    """
    return _apply_overrides_and_validate(
        strict_yaml.YamlDocument(defaults or {}), "flags", overrides, config_class
    )


def recipe_for_trial(
    recipe: Recipe, trial_values: Mapping[str, Any], error_prefix: str = "sweep"
) -> Recipe:
    """Build the recipe of one trial of a sweep.

    Args:
        recipe: The recipe of the sweep.
        trial_values: Values by dotted key. A key that selects the student's layers replaces the
            recipe's own selection.
        error_prefix: Name of the values in an error.

    Raises:
        RecipeError: A value is invalid.
    """
    base = recipe.model_dump(mode="json") | {"sweep": None}
    for ways in MUTUALLY_EXCLUSIVE_KEYS:
        if any(f"student.{way}" in trial_values for way in ways):
            base["student"] |= dict.fromkeys(ways)
    overrides = [
        (f"{key}={json.dumps(value)}", error_prefix) for key, value in trial_values.items()
    ]
    return config_from_flags(Recipe, overrides, base)


def copy_recipe_with_absolute_paths(reference: str, destination: Path | None) -> Path:
    """Copy a recipe file, with its relative paths made absolute.

    Args:
        reference: A path, or the name of a recipe that ships with kd.
        destination: A new file, or a folder. None is the working folder.

    Returns:
        The written file.

    Raises:
        RecipeError: The file exists, its folder doesn't, or there is no such recipe.
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
        for s, absolute in make_paths_absolute(document, path).items()
    ]
    # From last to first: a replacement shifts only the text after it.
    for (start, end), absolute in sorted(moved, reverse=True):
        text = text[:start] + json.dumps(absolute, ensure_ascii=False) + text[end:]
    write_text_atomically(target, text)
    return target


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML, with every default written out."""
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
                f"{path}: is larger than {strict_yaml.MAX_BYTES:,} bytes, the limit for a recipe."
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: is not UTF-8 text.", "Save it as UTF-8.") from error
    except OSError as error:
        raise RecipeError(f"{path}: can't be read: {error.strerror}.") from error


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
        apply_override(document.value, text, origin, origins, config_class)
    found = validation.validate_config(document.value, config_class)
    if not isinstance(found, ValidationMistake):
        if isinstance(found, Recipe):
            _check_sweep_values(found, document, display_name, origins)
        return found
    where = find_typed_override(found.key_path, origins)
    # A mistake that is there without the overrides too is the file's.
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
    """Check that each value of the sweep is valid, alone and with the others."""
    space = recipe.sweep or {}
    for key, values in space.items():
        path = ("sweep", key)
        written_at = f"{display_name}:{document.line_number(path)}"
        where = f"{find_typed_override(path, origins) or written_at}: sweep"
        if key.partition(".")[0] not in SWEEPABLE_SECTIONS:
            raise RecipeError(
                f"{where}: {key} can't vary.",
                f"Keys that can vary begin with {' or '.join(SWEEPABLE_SECTIONS)}.",
            )
        for value in values_to_validate(values):
            recipe_for_trial(recipe, {key: value}, where)
    if space:
        where = f"{display_name}:{document.line_number(('sweep',))}: sweep"
        recipe_for_trial(
            recipe, {key: values_to_validate(values)[0] for key, values in space.items()}, where
        )
