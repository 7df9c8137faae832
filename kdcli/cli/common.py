"""Functions that several commands share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.cli.console import Console, format_duration

if TYPE_CHECKING:
    from kdcli.pipeline.run_folder import CheckpointInterval, RunFolder
    from kdcli.recipe.overrides import Override
    from kdcli.recipe.schema import Recipe


def run_recipe(
    reference: str,
    overrides: "Sequence[Override] | None",
    output: Path | None,
    console: Console,
    *,
    until: str,
    fresh: bool,
    allow_pickle: bool = False,
    allow_code: bool = False,
    allow_endpoints: Sequence[str] = (),
    dry_run: bool = False,
    checkpoint_every: str | None = None,
    seeds: int = 1,
) -> "RunFolder | None":
    """Run a recipe up to a stage, and repeat it for further seeds.

    Returns:
        The run's folder; None after a dry run, which shows its plan itself, and in all processes
        but the first.
    """
    from kdcli import distributed, plugins
    from kdcli.pipeline import planning, runner
    from kdcli.progress import SilentReporter
    from kdcli.recipe.loading import load_recipe

    plugins.set_code_allowed(allow_code)
    every = parse_checkpoint_interval(checkpoint_every)
    recipe = load_recipe(reference, overrides or ())
    folder = planning.run_folder_path(recipe, output)
    first = distributed.is_main_process()
    if dry_run:
        if first:
            allowed = {
                "allow_pickle": allow_pickle,
                "allow_code": allow_code,
                "allow_endpoints": allow_endpoints,
            }
            _show_pipeline_plan(recipe, folder, until, console, allowed, fresh=fresh)
        return None
    reporter = console if first else SilentReporter()
    run = runner.run_pipeline(
        recipe,
        folder,
        reporter,
        until,
        fresh=fresh,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
        allow_endpoints=allow_endpoints,
        checkpoint_every=every,
    )
    if seeds > 1:
        runner.repeat_with_seeds(
            recipe,
            folder,
            reporter,
            seeds,
            allow_pickle=allow_pickle,
            allow_code=allow_code,
            allow_endpoints=allow_endpoints,
            checkpoint_every=every,
        )
    return run if first else None


def parse_checkpoint_interval(interval: str | None) -> "CheckpointInterval":
    """Parse the value of --checkpoint-every."""
    from kdcli.errors import UsageError
    from kdcli.pipeline.run_folder import CheckpointInterval

    if interval is None:
        return CheckpointInterval()
    number, unit = (
        (interval[:-1], interval[-1]) if interval[-1:] in ("s", "m", "h") else (interval, "")
    )
    if not number.isdigit() or not int(number):
        raise UsageError(
            f"--checkpoint-every {interval} is neither steps nor a time.",
            "Write 500, 90s, 10m or 2h, for example.",
        )
    if not unit:
        return CheckpointInterval(steps=int(number), seconds=None)
    return CheckpointInterval(seconds=int(number) * {"s": 1.0, "m": 60.0, "h": 3600.0}[unit])


def show_evaluation_table(
    evaluation: Mapping[str, Any], document: Any, title: str, console: Console, footer: str = ""
) -> None:
    """Show the models of an evaluation side by side, with remarks on significant differences."""
    from kdcli.evaluation.output import comparison_summary

    header = ["", *(model["name"] for model in evaluation["models"])]
    words = "\n".join(
        [*comparison_summary.comparison_remarks(evaluation), *([footer] if footer else [])]
    )
    console.print_table(
        document, title, header, comparison_summary.comparison_table_rows(evaluation), words
    )


def _show_pipeline_plan(
    recipe: "Recipe",
    folder: Path,
    until: str,
    console: Console,
    permissions: Mapping[str, Any],
    *,
    fresh: bool,
) -> None:
    from kdcli.pipeline import planning
    from kdcli.pipeline.run_estimate import estimate_run
    from kdcli.pipeline.run_folder import RunFolder

    planning.refuse_run_folder_in_data(recipe, folder)
    planned = planning.plan_stages(recipe, RunFolder.open(folder), until, fresh=fresh)
    expected = estimate_run(recipe, console, **permissions)
    stages = [
        {
            "stage": item.stage.name,
            "does": item.stage.description,
            "reused": item.reason is None,
            "reason": item.reason,
            **expected.get(item.stage.name, {}),
        }
        for item in planned
    ]
    rows = [
        [
            stage["stage"],
            "reuse" if stage["reused"] else f"run: {stage['reason']}",
            f"{stage['parameters'] / 1e6:.1f} M" if "parameters" in stage else "",
            f"{stage['steps']:,}" if "steps" in stage else "",
            ""
            if stage["reused"] or "seconds" not in stage
            else "≈ " + format_duration(stage["seconds"]),
        ]
        for stage in stages
    ]
    header = ["stage", "plan", "parameters", "steps", "time"]
    console.print_table({"folder": str(folder), "stages": stages}, f"{folder}", header, rows)
