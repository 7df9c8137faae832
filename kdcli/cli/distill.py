"""`kd distill`: run a recipe from data to model card."""

from typing import Annotated

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import (
    AllowCodeOption,
    AllowEndpointOption,
    AllowPickleOption,
    CheckpointEveryOption,
    DeviceOption,
    DryRunOption,
    FreshOption,
    JsonOption,
    OutputOption,
    QuietOption,
    SetOption,
)


def distill(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|DATA|MODEL",
            help="A recipe file or the name of a shipped one; a file or folder of texts and "
            "labels; or, with --data, a finished classifier.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Texts for a MODEL, with or without labels."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The teacher for DATA. Default: BERT-base."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="DATA's text column; twice for pairs. Default: guessed."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="DATA's label column. Default: guessed.")
    ] = None,
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
    device: DeviceOption = None,
    allow_pickle: AllowPickleOption = False,
    allow_code: AllowCodeOption = False,
    allow_endpoint: AllowEndpointOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Distil a student: teacher, training, evaluation and model card.

    Of your own DATA, kd writes a recipe beside it first. Stages that have run with the same
    inputs are reused.
    """
    import kdcli
    from kdcli import distributed
    from kdcli.api import runs
    from kdcli.api.own_data import find_or_write_recipe
    from kdcli.cli.common import parse_checkpoint_interval, show_evaluation_table, show_run_plan
    from kdcli.evaluation.output.comparison_summary import models_with_one_label
    from kdcli.evaluation.output.evaluation_schema import STUDENT
    from kdcli.evaluation.uncertainty.seed_variance import seed_table_rows
    from kdcli.pipeline.options import RunOptions

    console = Console(json_output=json_output, quiet=quiet)
    if device is not None:
        kdcli.use_device(device)
    interval, endpoints = parse_checkpoint_interval(checkpoint_every), tuple(allow_endpoint or ())
    recipe = find_or_write_recipe(
        recipe, console, data=data, teacher=teacher, text=tuple(text or ()), label=label
    )
    if dry_run:
        options = RunOptions(fresh, allow_pickle, allow_code, endpoints, interval)
        show_run_plan(recipe, overrides, output, console, None, options)
        return
    run = runs.distill(
        recipe,
        overrides=overrides or (),
        output=output,
        seeds=seeds,
        fresh=fresh,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
        allow_endpoints=endpoints,
        checkpoint_interval=interval,
        reporter=console,
    )
    if not distributed.is_main_process():
        return
    evaluation = run.evaluation
    document = {"run": str(run.path), "student": str(run.student), **evaluation}
    following = f"kd card {run.path} --push OWNER/NAME"
    if any(name == STUDENT for name, _ in models_with_one_label(evaluation)):
        following = "train for longer, such as with --set distill.epochs=20"
    after = (
        f"Student and card: {run.path / 'student'}\nReport: {run.path / 'report.html'}\n"
        f'Try it: kd predict {run.path} "TEXT"\nNext: {following}'
    )
    if seeds > 1:
        spread = run.seeds or {}
        document["over_seeds"] = spread
        if not json_output:
            header = [f"mean ± deviation, {seeds} seeds", *spread["models"]]
            console.print_table(None, "", header, seed_table_rows(spread))
    show_evaluation_table(evaluation, document, run.path.name, console, after)
