"""Keys of a recipe that may name a local path, and their absolute paths."""

from pathlib import Path
from typing import Any

from kdcli import path_resolution
from kdcli.errors import RecipeError, UsageError
from kdcli.recipe import strict_yaml

SOURCE_KEY_PATHS: tuple[strict_yaml.KeyPath, ...] = (
    ("data", "dataset"),
    ("data", "unlabeled"),
    ("augment", "model"),
    ("teacher", "model"),
    ("teacher", "file"),
    ("student", "model"),
)


def make_paths_absolute(
    document: strict_yaml.YamlDocument, path: Path
) -> dict[strict_yaml.KeyPath, str]:
    """Make a recipe file's relative paths absolute, and return the changed ones by key path."""
    moved = {}
    for source in (*SOURCE_KEY_PATHS, *swept_model_key_paths(document.value)):
        where = f"{path}:{document.line_number(source)}: {'.'.join(map(str, source))}"
        if absolute := make_path_absolute(document.value, source, path.parent, where):
            moved[source] = absolute
    return moved


def make_path_absolute(
    recipe_values: Any, key_path: strict_yaml.KeyPath, base_folder: Path, location: str
) -> str | None:
    """Make a source's path absolute; a name without a file below `base_folder` is a Hub id.

    Returns:
        The absolute path, or None if the source is not a path.

    Raises:
        RecipeError: The path is malformed; the message begins with `location`.
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
        path = path_resolution.expand_local_path(given, base_folder)
    except UsageError as error:
        raise RecipeError(f"{location}: {error}") from error
    if given.startswith("package:"):
        return None
    if given.startswith((".", "/", "~")) or path.exists() or path_resolution.is_glob(given):
        part[key] = absolute = str(path.resolve())
        return absolute
    return None


def swept_model_key_paths(recipe_values: dict[str, Any]) -> list[strict_yaml.KeyPath]:
    """List the key paths of the models that a sweep chooses from."""
    key = "student.model"
    space = recipe_values.get("sweep")
    choices = space.get(key) if isinstance(space, dict) else None
    return [("sweep", key, i) for i in range(len(choices) if isinstance(choices, list) else 0)]
