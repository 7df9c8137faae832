"""What the commands that run a recipe share: from flags to the pipeline and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.cli.console import Console, duration

if TYPE_CHECKING:
    from kdcli.recipe.load import Override
    from kdcli.recipe.schema import Recipe
    from kdcli.run import Cadence, RunFolder


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
    """Run a recipe up to a stage, and the whole of it again where there is more than one seed.

    Returns:
        The run's folder; None where nothing is left to show: after a dry run, which has shown its
        plan, and in all processes of a run but the first.
    """
    from kdcli import pipeline, planning, processes
    from kdcli.progress import Silent
    from kdcli.recipe.load import load

    every = cadence(checkpoint_every)
    recipe = load(reference, overrides or ())
    folder = planning.folder_for(recipe, output)
    first = processes.is_first()
    if dry_run:
        if first:
            allowed = {
                "allow_pickle": allow_pickle,
                "allow_code": allow_code,
                "allow_endpoints": allow_endpoints,
            }
            _show_plan(recipe, folder, until, console, allowed, fresh=fresh)
        return None
    reporter = console if first else Silent()
    run = pipeline.execute(
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
        pipeline.repeat(
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


def cadence(text: str | None) -> "Cadence":
    """How often to write a checkpoint, from what the user typed."""
    from kdcli.errors import UsageError
    from kdcli.run import Cadence

    if text is None:
        return Cadence()
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h") else (text, "")
    if not number.isdigit() or not int(number):
        raise UsageError(
            f"--checkpoint-every {text} is neither steps nor time.", "Such as 500, 90s, 10m or 2h."
        )
    if not unit:
        return Cadence(steps=int(number), seconds=None)
    return Cadence(seconds=int(number) * {"s": 1.0, "m": 60.0, "h": 3600.0}[unit])


def show_figures(
    evaluation: Mapping[str, Any], document: Any, title: str, console: Console, after: str = ""
) -> None:
    """The models of an evaluation side by side, and in words what is more than noise."""
    from kdcli.evaluation import summary

    header = ["", *(model["name"] for model in evaluation["models"])]
    words = "\n".join([*summary.remarks(evaluation), *([after] if after else [])])
    console.table(document, title, header, summary.rows(evaluation), words)


def _show_plan(
    recipe: "Recipe",
    folder: Path,
    until: str,
    console: Console,
    allowed: Mapping[str, Any],
    *,
    fresh: bool,
) -> None:
    from kdcli import planning
    from kdcli.run import RunFolder
    from kdcli.stages.forecast import forecast

    planning.apart_from_data(recipe, folder)
    planned = planning.plan(recipe, RunFolder.open(folder), until, fresh=fresh)
    expected = forecast(recipe, console, **allowed)
    stages = [
        {
            "stage": item.stage.name,
            "does": item.stage.doing,
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
            "" if stage["reused"] or "seconds" not in stage else "≈ " + duration(stage["seconds"]),
        ]
        for stage in stages
    ]
    header = ["stage", "plan", "parameters", "steps", "time"]
    console.table({"folder": str(folder), "stages": stages}, f"{folder}", header, rows)
