"""Functions that several commands share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.cli.console import Console, format_duration

if TYPE_CHECKING:
    from kdcli.pipeline.options import RunOptions
    from kdcli.pipeline.run_folder import CheckpointInterval
    from kdcli.recipe.overrides import Override


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


def show_run_plan(
    reference: str,
    overrides: "Sequence[Override] | None",
    output: Path | None,
    console: Console,
    until: str | None,
    options: "RunOptions",
) -> None:
    """Show which stages of a recipe would run, why, and about how long they would take."""
    from kdcli import distributed, plugins
    from kdcli.pipeline import planning
    from kdcli.pipeline.run_estimate import estimate_run
    from kdcli.pipeline.run_folder import RunFolder
    from kdcli.recipe.loading import load_recipe

    plugins.set_code_allowed(options.allow_code)
    recipe = load_recipe(reference, overrides or ())
    if not distributed.is_main_process():
        return
    folder = planning.run_folder_path(recipe, output)
    planning.refuse_run_folder_in_data(recipe, folder)
    planned = planning.plan_stages(recipe, RunFolder.open(folder), until, fresh=options.fresh)
    expected = estimate_run(recipe, console, options)
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
