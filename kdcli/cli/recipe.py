"""`kd recipe`: find, show, copy and check recipes."""

from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import JsonOption, RecipeArgument, SetOption


def list_(json_output: JsonOption = False) -> None:
    """The recipes that ship with kd."""
    from kdcli.recipe.load import shipped, summary

    rows = [(name, summary(path)) for name, path in shipped().items()]
    document = [{"name": name, "about": about} for name, about in rows]
    text = "\n".join(f"{name:<16} {about}" for name, about in rows)
    Console(json_output=json_output).result(document, text)


def show(
    recipe: RecipeArgument, overrides: SetOption = None, json_output: JsonOption = False
) -> None:
    """A recipe as kd understands it, every default written out."""
    from kdcli.recipe.load import dump, load

    loaded = load(recipe, overrides or ())
    Console(json_output=json_output).result(loaded.model_dump(mode="json"), dump(loaded))


def copy(
    recipe: RecipeArgument,
    to: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to, here by default.")
    ] = None,
) -> None:
    """Copy a recipe, to change it."""
    from kdcli.recipe.load import copy_to

    written = copy_to(recipe, to)
    Console().result({}, f"{written}\nNext: edit it, then kd recipe check {written}")


def check(
    recipe: RecipeArgument, overrides: SetOption = None, json_output: JsonOption = False
) -> None:
    """Whether a recipe is right: exit code 2, and why, where it isn't."""
    from kdcli.recipe.load import load

    loaded = load(recipe, overrides or ())
    document = {"recipe": recipe, "name": loaded.name, "valid": True}
    Console(json_output=json_output).result(
        document, f"{recipe}: a sound recipe for {loaded.name}."
    )


def schema() -> None:
    """The JSON Schema of recipes, for editors."""
    import json

    from kdcli.recipe.schema import Recipe

    Console().result({}, json.dumps(Recipe.model_json_schema(), indent=2))
