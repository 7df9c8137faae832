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

    The check only reports: if the data can be read, the exit code is 0.
    """
    import textwrap

    from kdcli import plugins
    from kdcli.api.data_check import check_data
    from kdcli.data.checks import data_report
    from kdcli.recipe.loading import load_recipe

    plugins.set_code_allowed(allow_code)
    console = Console(json_output=json_output, quiet=quiet)
    document = check_data(load_recipe(recipe, overrides or ()), console)
    remarks = data_report.data_warnings(document)
    after = "\n".join(textwrap.fill(line, 80) for line in remarks) or "All is well."
    header = ["", *document["splits"]]
    document |= {"remarks": remarks}
    console.print_table(document, "", header, data_report.summary_table_rows(document), after)
