"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe's file, or the name of one that ships with kd."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the recipe, such as distill.epochs=3. May be repeated.",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="DIR", help="The run's folder; runs/NAME where it is left out."
    ),
]
SweepOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="The sweep's folder; runs/NAME-sweep where it is left out.",
    ),
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Start over: reuse nothing of an earlier run.")
]
CheckpointEveryOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        metavar="STEPS|TIME",
        help="How often training writes a checkpoint: 500 (steps), 90s, 10m. Left out: 5m.",
    ),
]
AllowPickleOption = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Also read weights that are a pickle (pytorch_model.bin), which you trust.",
    ),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Also run the Python function that the recipe names as its teacher, which you trust.",
    ),
]
AllowEndpointOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-endpoint",
        metavar="HOST[=VARIABLE]",
        help="A host that the recipe's texts may be sent to, with its provider's key, or with that "
        "environment variable. May be repeated.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, and don't do it.")
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="One JSON document on standard output; all else on standard error."
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]
