"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe file, or the name of a recipe that ships with kd."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a recipe key, such as distill.epochs=3. Repeatable.",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="The run's folder. Default: runs/NAME."),
]
SweepOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="The sweep's folder. Default: runs/NAME-sweep.",
    ),
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Start over and reuse nothing of an earlier run.")
]
CheckpointEveryOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        metavar="STEPS|TIME",
        help="Checkpoint interval: 500 (steps), 90s, 10m. Default: 5m.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps or xpu. Default: the accelerator if there is one.",
    ),
]
AllowPickleOption = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Also load pickled weights (pytorch_model.bin), if you trust them.",
    ),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Also run Python code that the recipe names, if you trust it.",
    ),
]
AllowEndpointOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-endpoint",
        metavar="HOST[=VARIABLE]",
        help="Allow sending the recipe's texts to this host, with its provider's API key or the "
        "value of VARIABLE. Repeatable.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan without running it.")]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document to standard output, all else to standard error."
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
