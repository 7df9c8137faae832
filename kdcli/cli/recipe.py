"""`kd recipe`: list, show, copy, check and create recipes."""

from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import AllowCodeOption, JsonOption, RecipeArgument, SetOption


def list_recipes(json_output: JsonOption = False) -> None:
    """List the recipes that ship with kd."""
    from kdcli.recipe.recipe_lookup import recipe_summary, shipped_recipe_paths

    rows = [(name, recipe_summary(path)) for name, path in shipped_recipe_paths().items()]
    document = [{"name": name, "about": about} for name, about in rows]
    text = "\n".join(f"{name:<16} {about}" for name, about in rows)
    Console(json_output=json_output).print_result(document, text)


def show_recipe(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    allow_code: AllowCodeOption = False,
    json_output: JsonOption = False,
) -> None:
    """Show a recipe with every default written out."""
    from kdcli import plugins
    from kdcli.recipe.loading import dump_recipe, load_recipe

    plugins.set_code_allowed(allow_code)
    loaded = load_recipe(recipe, overrides or ())
    Console(json_output=json_output).print_result(
        loaded.model_dump(mode="json"), dump_recipe(loaded)
    )


def copy_recipe(
    recipe: RecipeArgument,
    destination: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A new file or a folder. Default: the working folder."),
    ] = None,
) -> None:
    """Copy a recipe to edit it."""
    from kdcli.recipe.loading import copy_recipe_with_absolute_paths

    written = copy_recipe_with_absolute_paths(recipe, destination)
    Console().print_result({}, f"{written}\nNext: edit it, then kd recipe check {written}")


def create_recipe(
    source: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="A file, a pattern, a folder or a Hub id."),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="The same, as a flag.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The recipe to write.")
    ] = Path("recipe.yaml"),
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Text column; twice for pairs. Default: guessed."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Label column. Default: guessed.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="NAME", help="Configuration of a Hub data set.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The teacher. Default: BERT-base.")
    ] = None,
) -> None:
    """Inspect data and write a recipe for it, with comments on each guess."""
    from kdcli.api.recipe_generator import DEFAULT_TEACHER, RecipeRequest, generate_recipe
    from kdcli.errors import RecipeError, UsageError
    from kdcli.recipe.loading import load_recipe
    from kdcli.safe_files import write_text_atomically

    if (source is None) == (data is None):
        raise UsageError(
            "kd recipe new takes the data once." if data else "kd recipe new needs data.",
            "Name it: kd recipe new texts.csv.",
        )
    columns = tuple(text or ())
    if len(columns) > 2:
        raise UsageError("--text: give one column, or two for pairs.")
    if not output.parent.is_dir():
        raise RecipeError(f"There is no folder {output.parent}.")
    written = generate_recipe(
        RecipeRequest(source or data or "", config, columns, label, teacher or DEFAULT_TEACHER),
        output,
    )
    if output.exists() and (output.is_dir() or output.read_text(encoding="utf-8") != written):
        raise RecipeError(f"{output} exists.", "Name another file: --output.")
    write_text_atomically(output, written)
    load_recipe(str(output))
    following = f"kd data check {output}, then kd distill {output} --dry-run"
    Console().print_result({}, f"{output}\nNext: {following}")


def check_recipe(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    allow_code: AllowCodeOption = False,
    json_output: JsonOption = False,
) -> None:
    """Validate a recipe and the columns of its data; exit with 2 and the first mistake."""
    from kdcli import plugins
    from kdcli.data.dataset_loading import check_local_columns
    from kdcli.recipe.loading import load_recipe

    plugins.set_code_allowed(allow_code)
    loaded = load_recipe(recipe, overrides or ())
    is_local = check_local_columns(loaded.data)
    document = {"recipe": recipe, "name": loaded.name, "valid": True, "data_checked": is_local}
    after = "" if is_local else f" Its data, {loaded.data.dataset}, is on the Hub: not looked at."
    Console(json_output=json_output).print_result(
        document, f"{recipe}: valid recipe for {loaded.name}.{after}"
    )


def print_recipe_schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    import json

    from kdcli.recipe.schema import Recipe

    Console().print_result({}, json.dumps(Recipe.model_json_schema(), indent=2))
