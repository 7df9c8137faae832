"""Find recipe files: by path, or by the name of one that ships with kd."""

import difflib
from pathlib import Path

import kdcli
from kdcli import path_resolution
from kdcli.errors import RecipeError


def shipped_recipes_folder() -> Path:
    """Return the folder of the recipes that ship with kd, in a wheel or a checkout."""
    package = Path(kdcli.__file__).parent
    in_wheel = package / "recipes"
    return in_wheel if in_wheel.is_dir() else package.parent / "recipes"


def shipped_recipe_paths() -> dict[str, Path]:
    """List the recipes that ship with kd, by name."""
    return {path.stem: path for path in sorted(shipped_recipes_folder().glob("*.yaml"))}


def find_recipe_file(reference: str) -> Path:
    """Find a recipe's file by its path, or by the name of one that ships with kd.

    Raises:
        RecipeError: There is no such recipe.
    """
    path = path_resolution.expand_local_path(reference)
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


def is_recipe_not_model(reference: str) -> bool:
    """Return whether a reference names a recipe and not a model."""
    return Path(reference).suffix in (".yaml", ".yml") or reference in shipped_recipe_paths()


def recipe_summary(path: Path) -> str:
    """Return the recipe's purpose, the first line of its opening comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
