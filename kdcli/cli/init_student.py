"""`kd init-student`: cut an untrained student out of a model, or out of a recipe's teacher."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import FreshOption, JsonOption, QuietOption, SetOption

if TYPE_CHECKING:
    from kdcli.recipe.load import Override


def init_student(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A Hub id, a folder, package:NAME/PATH, or a recipe."),
    ],
    drop_every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Leave out every Nth layer: 2 keeps layers 0, 2, 4, …"),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="0,2,4", help="The layers to keep, counted from 0.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="auto, same or distilbert. Left out: auto.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The student's folder."),
    ] = None,
    overrides: SetOption = None,
    fresh: FreshOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Cut a student out of a model by leaving out layers."""
    from kdcli.recipe.load import is_recipe

    console = Console(json_output=json_output, quiet=quiet)
    changes: list[Override] = list(overrides or ())
    if drop_every is not None:
        changes.append((f"student.drop_every={drop_every}", f"--drop-every {drop_every}"))
    if keep is not None:
        changes.append((f"student.keep=[{keep}]", f"--keep {keep}"))
    if architecture is not None:
        changes.append((f"student.architecture={architecture}", f"--architecture {architecture}"))
    build = _from_recipe if is_recipe(model) else _from_model
    folder, result = build(model, changes, output, fresh, console)
    text = f"{result['origin']}\n{result['parameters'] / 1e6:.2f} M parameters: {folder}"
    console.result({"student": str(folder), **result}, text)


def _from_recipe(
    recipe: str, changes: "list[Override]", output: Path | None, fresh: bool, console: Console
) -> tuple[Path, dict[str, Any]]:
    from kdcli.cli.runs import run_recipe

    cuts = [c for c in changes if c[0].startswith(("student.keep", "student.drop_every"))]
    # A cut asked for takes the place of the recipe's own.
    cleared = ["student.keep=null", "student.drop_every=null", "student.model=null"] if cuts else []
    run = run_recipe(
        recipe, [*cleared, *changes], output, console, until="student", fresh=fresh, dry_run=False
    )
    assert run is not None
    return run.path / "student-init", dict(run.records["student"].result)


def _from_model(
    model: str, changes: "list[Override]", output: Path | None, fresh: bool, console: Console
) -> tuple[Path, dict[str, Any]]:
    from kdcli.recipe.load import from_flags
    from kdcli.recipe.schema import CutSpec
    from kdcli.stages.student import cut_out

    spec = from_flags(CutSpec, changes).student
    folder = output or Path(f"{model.rstrip('/').rpartition('/')[2]}-student")
    return folder, cut_out(model, spec, folder, console, replace=fresh)
