"""`kd recipe`: find, show, copy, check and write recipes."""

from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import JsonOption, RecipeArgument, SetOption


def list_recipes(json_output: JsonOption = False) -> None:
    """The recipes that ship with kd."""
    from kdcli.recipe.shipped_recipes import recipe_summary, shipped_recipe_paths

    rows = [(name, recipe_summary(path)) for name, path in shipped_recipe_paths().items()]
    document = [{"name": name, "about": about} for name, about in rows]
    text = "\n".join(f"{name:<16} {about}" for name, about in rows)
    Console(json_output=json_output).print_result(document, text)


def show_recipe(
    recipe: RecipeArgument, overrides: SetOption = None, json_output: JsonOption = False
) -> None:
    """A recipe as kd understands it, every default written out."""
    from kdcli.recipe.loading import dump_recipe, load_recipe

    loaded = load_recipe(recipe, overrides or ())
    Console(json_output=json_output).print_result(
        loaded.model_dump(mode="json"), dump_recipe(loaded)
    )


def copy_recipe(
    recipe: RecipeArgument,
    destination: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to, here by default.")
    ] = None,
) -> None:
    """Copy a recipe, to change it."""
    from kdcli.recipe.loading import copy_recipe_file

    written = copy_recipe_file(recipe, destination)
    Console().print_result({}, f"{written}\nNext: edit it, then kd recipe check {written}")


def create_recipe(
    data: Annotated[
        str, typer.Option(metavar="DATA", help="A file, a pattern, a folder or a Hub id.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The recipe to write.")
    ] = Path("recipe.yaml"),
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="The texts' column; twice for a pair. Or guessed."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The labels' column. Or guessed.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="NAME", help="The Hub data set's configuration.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The teacher. Left out: BERT-base.")
    ] = None,
) -> None:
    """Look at data, and write a recipe for it with every guess explained."""
    from kdcli.api.recipe_generator import DEFAULT_TEACHER, RecipeRequest, generate_recipe
    from kdcli.errors import RecipeError, UsageError
    from kdcli.recipe.loading import load_recipe
    from kdcli.safe_files import write_text_atomically

    columns = tuple(text or ())
    if len(columns) > 2:
        raise UsageError("--text: a text is one column, and a pair is two.")
    if not output.parent.is_dir():
        raise RecipeError(f"There is no folder {output.parent}.")
    written = generate_recipe(
        RecipeRequest(data, config, columns, label, teacher or DEFAULT_TEACHER), output
    )
    if output.exists() and (output.is_dir() or output.read_text(encoding="utf-8") != written):
        raise RecipeError(f"{output} exists.", "Name another file: --output.")
    write_text_atomically(output, written)
    load_recipe(str(output))
    following = f"kd data check {output}, then kd distill {output} --dry-run"
    Console().print_result({}, f"{output}\nNext: {following}")


def check_recipe(
    recipe: RecipeArgument, overrides: SetOption = None, json_output: JsonOption = False
) -> None:
    """Whether a recipe is right: exit code 2, and why, where it isn't."""
    from kdcli.recipe.loading import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    document = {"recipe": recipe, "name": loaded.name, "valid": True}
    Console(json_output=json_output).print_result(
        document, f"{recipe}: a sound recipe for {loaded.name}."
    )


def print_recipe_schema() -> None:
    """The JSON Schema of recipes, for editors."""
    import json

    from kdcli.recipe.schema import Recipe

    Console().print_result({}, json.dumps(Recipe.model_json_schema(), indent=2))
