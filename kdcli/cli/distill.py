"""`kd distill`: the whole way, from a recipe to a card."""

from kdcli.cli.console import Console
from kdcli.cli.options import (
    CheckpointOption,
    DryRunOption,
    FreshOption,
    JsonOption,
    OutputOption,
    QuietOption,
    RecipeArgument,
    SetOption,
)


def distill(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    output: OutputOption = None,
    fresh: FreshOption = False,
    checkpoint_every: CheckpointOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Distil: teacher, student, training, evaluation and card, as a recipe says.

    Stages that are done already for the same inputs are reused.
    """
    from kdcli.cli.runs import run_recipe, show_figures

    console = Console(json_output=json_output, quiet=quiet)
    run = run_recipe(
        recipe,
        overrides,
        output,
        console,
        until="card",
        fresh=fresh,
        checkpoint_every=checkpoint_every,
        dry_run=dry_run,
    )
    if run is None:
        return
    evaluation = run.records["evaluate"].result
    document = {"run": str(run.path), "student": str(run.path / "student"), **evaluation}
    after = f"Student and card: {run.path / 'student'}\nNext: kd card {run.path} --push OWNER/NAME"
    show_figures(evaluation, document, run.path.name, console, after)
