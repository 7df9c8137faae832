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
    dry_run: bool = False,
    checkpoint_every: str | None = None,
) -> "RunFolder | None":
    """Run a recipe up to a stage; None after a dry run, which has shown its plan."""
    from kdcli import pipeline
    from kdcli.recipe.load import load

    cadence = _cadence(checkpoint_every)
    recipe = load(reference, overrides or ())
    folder = pipeline.folder_for(recipe, output)
    if dry_run:
        _show_plan(recipe, folder, until, fresh, console)
        return None
    return pipeline.execute(recipe, folder, console, until, fresh=fresh, checkpoint_every=cadence)


def _cadence(text: str | None) -> "Cadence":
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
    """The models of an evaluation side by side, a row each figure."""
    models = evaluation["models"]
    rows = []
    for split in evaluation["examples"]:
        keys = dict.fromkeys(key for m in models for key in m["splits"][split])
        for key in keys:
            values = (m["splits"][split].get(key) for m in models)
            rows.append([f"{split} {key.replace('_', ' ')}", *map(_percent, values)])
    rows.append(["parameters", *(f"{m['parameters'] / 1e6:.2f} M" for m in models)])
    rows.append(["weights", *(f"{m['megabytes']:.1f} MB" for m in models)])
    rows.append(["one text, median", *(f"{m['latency_ms']['p50']:.1f} ms" for m in models)])
    rows.append(["one text, 95 % under", *(f"{m['latency_ms']['p95']:.1f} ms" for m in models)])
    console.table(document, title, ["", *(m["name"] for m in models)], rows, after)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _show_plan(recipe: "Recipe", folder: Path, until: str, fresh: bool, console: Console) -> None:
    from kdcli import pipeline
    from kdcli.run import RunFolder
    from kdcli.stages.forecast import forecast

    planned = pipeline.plan(recipe, RunFolder.open(folder), until, fresh=fresh)
    expected = forecast(recipe, console)
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
