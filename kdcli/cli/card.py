"""`kd card`: write a run's card again, and publish student and card."""

from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import JsonOption, QuietOption


def card(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="The run's folder. Left out: the latest in runs/."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Publish student and card there on the Hub."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private where it is created.")
    ] = False,
    message: Annotated[
        str, typer.Option("--message", "-m", help="The commit's message.")
    ] = "Publish student and card",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the card of a run, and publish it with the student in one commit."""
    from kdcli import hub, pipeline

    console = Console(json_output=json_output, quiet=quiet)
    folder = run if run is not None else pipeline.latest_run(Path("runs"))
    student = pipeline.write_card(folder, console)
    document: dict[str, str | None] = {"run": str(folder), "card": str(student / "README.md")}
    text = f"Card: {student / 'README.md'}"
    if push is not None:
        files = {path.name: path for path in student.iterdir() if path.is_file()}
        published = hub.push(push, files, message, private=private or None)
        document |= {"url": published.url, "commit": published.commit}
        done = "Published" if published.commit else "Nothing has changed at"
        text += f"\n{done}: {published.url}"
    console.result(document, text)
