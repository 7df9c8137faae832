"""`kd sweep`: many students of one teacher, and the best of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import (
    AllowPickleOption,
    CheckpointOption,
    DryRunOption,
    FreshOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    SweepOutputOption,
)

if TYPE_CHECKING:
    from kdcli.recipe.schema import Recipe


def sweep(
    recipe: RecipeArgument,
    trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many there are to be in all.")
    ] = 20,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, metavar="M", help="Begin no trial later than so long after the start."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Processes that work side by side.")
    ] = 1,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="accuracy=X",
            help="Choose the smallest and fastest student that holds it on validation; exit code 1 "
            "where none does. Left out: the most accurate.",
        ),
    ] = None,
    overrides: SetOption = None,
    output: SweepOutputOption = None,
    fresh: FreshOption = False,
    checkpoint_every: CheckpointOption = None,
    allow_pickle: AllowPickleOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search for the best student: learning rate, temperature, weights, layers.

    Validation accuracy against latency and size. The same command goes on where it was stopped,
    and may be started several times at once.
    """
    from kdcli import processes
    from kdcli.cli.runs import cadence
    from kdcli.errors import GateMissedError, UsageError
    from kdcli.recipe.load import load
    from kdcli.sweep import frontier, search
    from kdcli.sweep.space import described
    from kdcli.sweep.work import Order

    console = Console(json_output=json_output, quiet=quiet)
    held = frontier.target_of(target)
    every = cadence(checkpoint_every)
    if processes.count() > 1:
        raise UsageError("kd sweep isn't started by a launcher.", "Use --workers N.")
    read = load(recipe, overrides or ())
    folder = search.folder_for(read, output)
    space = search.space_for(read, console, allow_pickle=allow_pickle) if dry_run else {}
    if dry_run:
        _show_space(str(folder), described(space), console)
        return
    order = Order(read, space, folder, trials, None, allow_pickle, every)
    found = search.search(
        order, console, minutes=minutes, workers=workers, target=held, fresh=fresh
    )
    _show(found, read, console)
    if held is not None and found["chosen"] is None:
        best = found["frontier"][0]
        reached = f"{best['name']}: validation {held.figure} is {best['accuracy']:.4f}"
        figure = f"{reached}, under {held.limit:g}"
        raise GateMissedError(f"No student holds --target {target}; the best:", [figure])


def _show_space(folder: str, space: Mapping[str, Any], console: Console) -> None:
    rows = [
        [
            key,
            f"{values['low']:g} to {values['high']:g}{', by tens' if values['log'] else ''}"
            if isinstance(values, Mapping)
            else ", ".join(map(str, values)),
        ]
        for key, values in space.items()
    ]
    console.table({"folder": folder, "space": space}, folder, ["varies", "over"], rows)


def _show(found: Mapping[str, Any], recipe: "Recipe", console: Console) -> None:
    from kdcli.sweep.space import shown, titles
    from kdcli.tasks import TASKS

    task = TASKS[found["task"]]
    names = titles(list(found["space"]), recipe.spelt_out(task))
    header = ["", "validation", "one text", "weights", "parameters", *names.values()]
    rows = [
        [*_figures(point, task.headline), *(shown(point["settings"][key]) for key in names)]
        for point in found["frontier"]
    ]
    rows.append([*_figures(found["teacher"], task.headline), *("" for _ in names)])
    states = [trial["state"] for trial in found["trials"]]
    counts = (f"{states.count(s)} {s}" for s in ("pruned", "failed") if s in states)
    title = ", ".join([f"{len(states)} trials", *counts])
    after = f"Picture: {found['picture']}"
    if best := found["chosen"]:
        after = (
            f"Chosen: {best['name']}. Its recipe: {found['recipe']}\n{after}\n"
            f"Next: kd distill {found['recipe']} --output {best['run']}"
        )
    console.table(found, title, header, rows, after)


def _figures(point: Mapping[str, Any], headline: str) -> list[str]:
    from kdcli.evaluation.document import shown

    return [
        point["name"],
        shown(headline, point["accuracy"]),
        f"{point['latency_ms']:.1f} ms",
        f"{point['megabytes']:.1f} MB",
        f"{point['parameters'] / 1e6:.2f} M",
    ]
