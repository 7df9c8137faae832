"""`kd evaluate`: measure classifiers side by side, and hold them to thresholds."""

from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import JsonOption, QuietOption


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Run folders (their teacher and student), folders, Hub ids, package:NAME/PATH.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="A Hub id, a file or a folder. Left out: the run's own data."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="The Hub data set's configuration.")] = None,
    text: Annotated[
        str | None, typer.Option(help="The text's column, or two for pairs: a,b.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The label's column.")] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="train, validation or test; may be repeated. Left out: the run's."),
    ] = None,
    out_of_scope: Annotated[
        str | None, typer.Option(metavar="LABEL", help="The label that is none of the others.")
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SPLIT.]FIGURE=X",
            help="Exit with 1 where a figure is lower, such as accuracy=0.91. May be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the JSON here.")
    ] = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure any classifiers on the same texts: what they get right, and what they cost."""
    import json

    from kdcli.cli.runs import show_figures
    from kdcli.errors import GateMissedError
    from kdcli.evaluation import gates
    from kdcli.stages import measure

    console = Console(json_output=json_output, quiet=quiet)
    thresholds = [gates.parse(threshold) for threshold in fail_under or ()]
    given = {
        ("data.dataset", "--data"): data,
        ("data.config", "--config"): config,
        ("data.text", "--text"): text.split(",") if text and "," in text else text,
        ("data.label", "--label"): label,
        ("evaluate.splits", "--split"): split or None,
        ("evaluate.out_of_scope", "--out-of-scope"): out_of_scope,
    }
    flags = [
        (f"{key}={json.dumps(value)}", f"{flag} {value}")
        for (key, flag), value in given.items()
        if value is not None
    ]
    found = measure.measure(models, flags, console)
    if output is not None:
        output.write_text(json.dumps(found, indent=2) + "\n")
    missed = gates.missed(thresholds, found)
    show_figures(found, {**found, "missed": missed}, "", console)
    if missed:
        raise GateMissedError("; ".join(missed) + ".")
