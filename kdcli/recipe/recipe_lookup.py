"""Find recipe files: by path, or by the name of one that ships with kd."""

import difflib
from pathlib import Path

import kdcli
from kdcli import path_resolution
from kdcli.errors import RecipeError

_RECIPE_SUFFIXES = (".yaml", ".yml")
_DATA_SUFFIXES = frozenset(
    {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow", ".xlsx", ".xls", ".txt"}
)


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
        if _DATA_SUFFIXES.intersection(suffix.lower() for suffix in path.suffixes):
            raise RecipeError(
                f"{reference} is a file of data, not a recipe.",
                f"Write a recipe for it: kd recipe new {reference}.",
            )
        return path
    if path.is_dir():
        raise RecipeError(f"{reference} is a folder, not a recipe.", "Name a YAML file.")
    names = shipped_recipe_paths()
    if reference in names:
        return names[reference]
    raise RecipeError(
        f"There is no recipe {reference}: neither a file nor one of {', '.join(names)}.",
        _suggest_recipe(reference, path, list(names)),
    )


def _suggest_recipe(reference: str, path: Path, names: list[str]) -> str:
    """Return a hint for a reference that names no recipe."""
    neighbours = [path.with_suffix(suffix) for suffix in _RECIPE_SUFFIXES] if path.name else []
    files = path.parent.glob("*.y*ml") if path.suffix in _RECIPE_SUFFIXES else ()
    near = {str(file): str(file) for file in (*neighbours, *files) if file.is_file()}
    # Of files, the name alone says whether they are alike.
    known = {Path(file).name: file for file in near} | {name: name for name in names}
    if existing := next((str(file) for file in neighbours if file.is_file()), None):
        return f"Did you mean {existing}?"
    if close := difflib.get_close_matches(path.name, known, n=1):
        return f"Did you mean {known[close[0]]}?"
    if path.suffix in _RECIPE_SUFFIXES or path.suffix.lower() in _DATA_SUFFIXES:
        return ""
    return f"If it is a model, name its texts too: kd distill {reference} --data TEXTS."


def is_recipe_not_model(reference: str) -> bool:
    """Return whether a reference names a recipe and not a model."""
    return Path(reference).suffix in _RECIPE_SUFFIXES or reference in shipped_recipe_paths()


def recipe_summary(path: Path) -> str:
    """Return the recipe's purpose, the first line of its opening comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
