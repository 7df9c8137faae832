"""`kd data`: check the texts and labels of a recipe."""

from kdcli.cli.console import Console
from kdcli.cli.options import AllowCodeOption, JsonOption, QuietOption, RecipeArgument, SetOption


def check_data(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    allow_code: AllowCodeOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check the data: class balance, duplicates, leaks between splits, text lengths.

    The exit code is 2 if a run would refuse the data.
    """
    import textwrap

    import typer

    from kdcli import plugins
    from kdcli.api.data_check import check_data, find_refusal
    from kdcli.data.checks import data_report
    from kdcli.recipe.loading import load_recipe

    plugins.set_code_allowed(allow_code)
    console = Console(json_output=json_output, quiet=quiet)
    loaded = load_recipe(recipe, overrides or ())
    document = check_data(loaded, console)
    refusal = find_refusal(loaded)
    remarks = data_report.data_warnings(document)
    after = "\n".join(textwrap.fill(line, 80) for line in remarks) or (
        "" if refusal else "All is well."
    )
    header = ["", *document["splits"]]
    document |= {"remarks": remarks, "refused": None if refusal is None else refusal.message}
    console.print_table(document, "", header, data_report.summary_table_rows(document), after)
    if refusal is not None:
        # The document is complete: the error follows it in words alone.
        Console().print_error(refusal)
        raise typer.Exit(refusal.exit_code)
