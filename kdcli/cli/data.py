"""`kd data`: look at the texts and labels of a recipe."""

from kdcli.cli.console import Console
from kdcli.cli.options import JsonOption, QuietOption, RecipeArgument, SetOption


def check(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What the data is like: balance, repeats, leaks, lengths, and what deserves a look.

    It informs, and writes nothing: where the data can be read, the exit code is 0.
    """
    import textwrap

    from kdcli.data import findings
    from kdcli.recipe.load import load
    from kdcli.stages.survey import survey

    console = Console(json_output=json_output, quiet=quiet)
    document = survey(load(recipe, overrides or ()), console)
    remarks = findings.remarks(document)
    after = "\n".join(textwrap.fill(line, 80) for line in remarks) or "All is well."
    header = ["", *document["splits"]]
    document |= {"remarks": remarks}
    console.table(document, "", header, findings.rows(document), after)
