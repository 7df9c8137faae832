"""`kd fine-tune-teacher`: run the pipeline up to the teacher."""

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
    RecipeArgument,
    SetOption,
)


def fine_tune_teacher(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    output: OutputOption = None,
    fresh: FreshOption = False,
    checkpoint_every: CheckpointEveryOption = None,
    device: DeviceOption = None,
    allow_pickle: AllowPickleOption = False,
    allow_code: AllowCodeOption = False,
    allow_endpoint: AllowEndpointOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fine-tune the teacher of a recipe, and stop there; kd distill goes on from it."""
    import kdcli
    from kdcli import distributed
    from kdcli.api import runs
    from kdcli.cli.common import parse_checkpoint_interval, show_run_plan
    from kdcli.evaluation.metrics.metric_catalog import format_metric
    from kdcli.pipeline.options import RunOptions
    from kdcli.tasks import TASKS

    console = Console(json_output=json_output, quiet=quiet)
    if device is not None:
        kdcli.use_device(device)
    interval, endpoints = parse_checkpoint_interval(checkpoint_every), tuple(allow_endpoint or ())
    if dry_run:
        options = RunOptions(fresh, allow_pickle, allow_code, endpoints, interval)
        show_run_plan(recipe, overrides, output, console, "teacher", options)
        return
    run = runs.fine_tune_teacher(
        recipe,
        overrides=overrides or (),
        output=output,
        fresh=fresh,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
        allow_endpoints=endpoints,
        checkpoint_interval=interval,
        reporter=console,
    )
    if not distributed.is_main_process():
        return
    result, folder = run.results["teacher"], run.teacher
    task = TASKS[result["task"]]
    rows = [
        [str(e["epoch"]), str(e["step"]), f"{e['training_loss']:.4f}",
         f"{e['validation_loss']:.4f}", format_metric(task.primary_metric, e[task.primary_metric])]
        for e in result["history"]
    ]  # fmt: skip
    header = ["epoch", "step", "training loss", "validation loss", task.primary_metric_title]
    document = {"run": str(run.path), "teacher": str(folder), **result}
    after = f"Teacher: {folder}\nNext: kd distill {recipe}"
    console.print_table(document, "", header, rows, after)
