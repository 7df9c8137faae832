"""`kd distill`: run a recipe from data to model card."""

from typing import Annotated

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import (
    AllowCodeOption,
    AllowEndpointOption,
    AllowPickleOption,
    CheckpointEveryOption,
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
    checkpoint_every: CheckpointEveryOption = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Train the student with N seeds: mean and deviation."
        ),
    ] = 1,
    allow_pickle: AllowPickleOption = False,
    allow_code: AllowCodeOption = False,
    allow_endpoint: AllowEndpointOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Distil a student: teacher, training, evaluation and model card of a recipe.

    Stages that have run with the same inputs are reused.
    """
    import json

    from kdcli.cli.common import run_recipe, show_evaluation_table
    from kdcli.evaluation.uncertainty.seed_variance import seed_table_rows as spread_rows
    from kdcli.pipeline.run_folder import SEEDS_FILE

    console = Console(json_output=json_output, quiet=quiet)
    run = run_recipe(
        recipe,
        overrides,
        output,
        console,
        until="card",
        fresh=fresh,
        checkpoint_every=checkpoint_every,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
        allow_endpoints=allow_endpoint or (),
        dry_run=dry_run,
        seeds=seeds,
    )
    if run is None:
        return
    evaluation = run.records["evaluate"].result
    document = {"run": str(run.path), "student": str(run.path / "student"), **evaluation}
    after = (
        f"Student and card: {run.path / 'student'}\nReport: {run.path / 'report.html'}\n"
        f"Next: kd card {run.path} --push OWNER/NAME"
    )
    if seeds > 1:
        spread = json.loads((run.path / SEEDS_FILE).read_text(encoding="utf-8"))
        document["over_seeds"] = spread
        if not json_output:
            header = [f"mean ± deviation, {seeds} seeds", *spread["models"]]
            console.print_table(None, "", header, spread_rows(spread))
    show_evaluation_table(evaluation, document, run.path.name, console, after)
