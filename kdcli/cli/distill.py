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
    from kdcli import distributed
    from kdcli.api import runs
    from kdcli.cli.common import parse_checkpoint_interval, show_evaluation_table, show_run_plan
    from kdcli.evaluation.output.comparison_summary import models_with_one_label
    from kdcli.evaluation.output.evaluation_schema import STUDENT
    from kdcli.evaluation.uncertainty.seed_variance import seed_table_rows
    from kdcli.pipeline.options import RunOptions

    console = Console(json_output=json_output, quiet=quiet)
    interval, endpoints = parse_checkpoint_interval(checkpoint_every), tuple(allow_endpoint or ())
    recipe = _recipe_for(recipe, data, teacher, tuple(text or ()), label, console)
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
        f"Next: {following}"
    )
    if seeds > 1:
        spread = run.seeds or {}
        document["over_seeds"] = spread
        if not json_output:
            header = [f"mean ± deviation, {seeds} seeds", *spread["models"]]
            console.print_table(None, "", header, seed_table_rows(spread))
    show_evaluation_table(evaluation, document, run.path.name, console, after)


def _recipe_for(
    reference: str,
    data: str | None,
    teacher: str | None,
    text: tuple[str, ...],
    label: str | None,
    console: Console,
) -> str:
    """Return the recipe that is named, or that of the data that is named."""
    from kdcli import distributed, path_resolution
    from kdcli.errors import UsageError
    from kdcli.pipeline.run_folder import RECIPE_FILE
    from kdcli.recipe.recipe_lookup import find_recipe_file, is_recipe_not_model

    local = path_resolution.expand_local_path(reference)
    if data is None and (local / "config.json").is_file():
        raise UsageError(
            f"{reference} is a model, not a recipe.",
            f"Name texts for it: kd distill {reference} --data TEXTS.",
        )
    is_run = (local / RECIPE_FILE).is_file()
    is_data = (local.is_dir() and data is None and not is_run) or path_resolution.is_glob(reference)
    is_recipe = is_recipe_not_model(reference) or (data is None and not is_data)
    if is_recipe and local.is_file() and not is_recipe_not_model(reference):
        from kdcli.data.readers.registry import file_format

        is_recipe = file_format(local) is None
    if is_recipe:
        find_recipe_file(reference)
        if flags := [f for f, v in (("--data", data), ("--teacher", teacher), ("--text", text),
                                    ("--label", label)) if v]:  # fmt: skip
            raise UsageError(
                f"{reference} is a recipe, which says {flags[0]} itself.",
                "Override its keys: --set data.dataset=DATA, data.text, data.label, teacher.model.",
            )
        return reference
    if data is not None and teacher is not None:
        raise UsageError(f"{reference} and --teacher {teacher}: name one model.")
    if len(text) > 2:
        raise UsageError("--text: give one column, or two for pairs.")
    if distributed.world_size() > 1:
        raise UsageError("Several processes take a recipe.", "Write it first: kd recipe new DATA.")
    from kdcli.api.recipe_generator import DEFAULT_TEACHER, RecipeRequest, recipe_for_data

    model = teacher or DEFAULT_TEACHER if data is None else reference
    request = RecipeRequest(data or reference, None, text, label, model)
    return str(recipe_for_data(request, console))
