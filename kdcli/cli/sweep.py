"""`kd sweep`: search for the best student of a teacher."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli.console import Console, format_duration
from kdcli.cli.options import (
    AllowCodeOption,
    AllowPickleOption,
    CheckpointEveryOption,
    DryRunOption,
    FreshOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    SweepOutputOption,
)
from kdcli.sanitize import count_noun

if TYPE_CHECKING:
    from pathlib import Path

    from kdcli.recipe.schema import Recipe
    from kdcli.sweep.run_sweep import SweepPlan


def sweep(
    recipe: RecipeArgument,
    trials: Annotated[int, typer.Option(min=1, metavar="N", help="Total number of trials.")] = 20,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, metavar="M", help="Start no trial after M minutes."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Parallel processes.")] = 1,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="accuracy=X",
            help="Choose the smallest and fastest student that reaches X on validation; exit with "
            "1 if none does. Default: choose the most accurate.",
        ),
    ] = None,
    overrides: SetOption = None,
    output: SweepOutputOption = None,
    fresh: FreshOption = False,
    checkpoint_every: CheckpointEveryOption = None,
    allow_pickle: AllowPickleOption = False,
    allow_code: AllowCodeOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search for the best student: learning rate, temperature, weights, layers.

    Optimizes validation accuracy against latency and size. The same command resumes a stopped
    sweep, and may run several times at once.
    """
    from kdcli import distributed, plugins
    from kdcli.cli.common import parse_checkpoint_interval
    from kdcli.errors import GateFailedError, UsageError
    from kdcli.pipeline.options import RunOptions
    from kdcli.recipe.loading import load_recipe
    from kdcli.sweep import pareto, run_sweep
    from kdcli.sweep.worker import SweepContext

    console = Console(json_output=json_output, quiet=quiet)
    gate = pareto.parse_target(target)
    options = RunOptions(
        allow_pickle=allow_pickle,
        allow_code=allow_code,
        checkpoint_interval=parse_checkpoint_interval(checkpoint_every),
    )
    if distributed.world_size() > 1:
        raise UsageError("kd sweep isn't started by a launcher.", "Use --workers N.")
    plugins.set_code_allowed(allow_code)
    loaded = load_recipe(recipe, overrides or ())
    folder = run_sweep.sweep_folder_path(loaded, output)
    if dry_run:
        _show_sweep_plan(
            run_sweep.plan_sweep(loaded, console, options), folder, console, trials, minutes
        )
        return
    config = SweepContext(loaded, {}, folder, trials, None, options)
    result = run_sweep.run_sweep(
        config, console, max_minutes=minutes, workers=workers, target=gate, fresh=fresh
    )
    _show_sweep_result(result, loaded, console)
    if gate is not None and result["chosen"] is None:
        best = result["frontier"][0]
        reached = f"{best['name']}: validation {gate.metric} is {best['accuracy']:.4f}"
        figure = f"{reached}, under {gate.limit:g}"
        raise GateFailedError(f"No student reaches --target {target}; the best:", [figure])


def _show_sweep_plan(
    plan: "SweepPlan", folder: "Path", console: Console, trials: int, minutes: float | None
) -> None:
    from kdcli.sweep.search_space import space_to_json

    space = space_to_json(plan.space)
    rows = [
        [
            key,
            f"{values['low']:g} to {values['high']:g}{', by tens' if values['log'] else ''}"
            if isinstance(values, Mapping)
            else ", ".join(map(str, values)),
        ]
        for key, values in space.items()
    ]
    each, before = plan.trial_seconds, plan.shared_seconds
    document = {
        "folder": str(folder),
        "space": space,
        "trials": trials,
        "seconds_per_trial": each,
        "seconds_before_trials": before,
    }
    after = (
        f"Teacher and its outputs: about {format_duration(before)}.\n"
        f"Trials: {trials}, of about {format_duration(each)} each with one worker; trials that "
        "are\nworse than others end early. "
        f"Together: at most about {format_duration(before + trials * each)}."
    )
    if minutes is not None:
        after += f"\nNo trial starts after {minutes:g} min."
    console.print_table(document, str(folder), ["varies", "over"], rows, after)


def _show_sweep_result(result: Mapping[str, Any], recipe: "Recipe", console: Console) -> None:
    from kdcli.sweep.search_space import format_value, short_parameter_names
    from kdcli.tasks import TASKS

    task = TASKS[result["task"]]
    names = short_parameter_names(list(result["space"]), recipe.with_default_losses(task))
    header = ["", "validation", "latency, median", "weights", "parameters"]
    rows = [
        _format_frontier_point(point, task.primary_metric)
        for point in (*result["frontier"], result["teacher"])
    ]
    # A column for each would be too wide for a terminal.
    settings = [
        f"{point['name']}: "
        + ", ".join(f"{names[key]} {format_value(point['settings'][key])}" for key in names)
        for point in result["frontier"]
    ]
    states = [trial["state"] for trial in result["trials"]]
    counts = (f"{states.count(s)} {s}" for s in ("pruned", "failed") if s in states)
    title = ", ".join([count_noun(len(states), "trial"), *counts])
    lines = (textwrap.fill(line, 80, subsequent_indent="  ") for line in settings)
    after = "\n".join([*lines, f"Picture: {result['picture']}"])
    if best := result["chosen"]:
        after = (
            f"Chosen: {best['name']}. Its recipe: {result['recipe']}\n{after}\n"
            f"Next: kd distill {result['recipe']} --output {best['run']}"
        )
    console.print_table(result, title, header, rows, after)


def _format_frontier_point(point: Mapping[str, Any], headline_metric: str) -> list[str]:
    from kdcli.evaluation.metrics.metric_catalog import format_metric

    return [
        point["name"],
        format_metric(headline_metric, point["accuracy"]),
        f"{point['latency_ms']:.1f} ms",
        f"{point['megabytes']:.1f} MB",
        f"{point['parameters'] / 1e6:.2f} M",
    ]
