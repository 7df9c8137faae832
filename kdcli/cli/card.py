"""`kd card`: write a run's model card, and publish it with the student."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import AllowCodeOption, JsonOption, QuietOption


def card(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="The run's folder. Default: the working folder's, or the latest in runs/.",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Hub repository to publish student and card to."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Branch to publish to. Default: main.")
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")
    ] = False,
    message: Annotated[
        str, typer.Option("--message", "-m", help="The commit message.")
    ] = "Publish student and card",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show card and files without publishing.")
    ] = False,
    allow_code: AllowCodeOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the model card of a run, and publish it with the student in one commit."""
    from kdcli import plugins
    from kdcli.api import runs
    from kdcli.errors import UsageError
    from kdcli.pipeline import finished_run

    if push is None and (revision or create_pr or private):
        raise UsageError(
            "--private, --revision and --create-pr need --push.",
            "Name where to publish: --push OWNER/NAME.",
        )
    plugins.set_code_allowed(allow_code)
    console = Console(json_output=json_output, quiet=quiet)
    folder = run if run is not None else finished_run.find_current_run()
    card = folder / "student" / "README.md"
    document: dict[str, Any] = {"run": str(folder), "card": str(card)}
    text = f"Card: {card}"
    if push is not None and not dry_run:
        published = runs.push_to_hub(
            folder,
            push,
            message=message,
            private=private or None,
            revision=revision,
            create_pr=create_pr,
            reporter=console,
        )
        document |= {"url": published.url, "commit": published.commit}
        text += f"\n{'Published' if published.commit else 'No changes at'}: {published.url}"
    else:
        runs.write_card(folder, reporter=console)
    if dry_run:
        files = finished_run.files_to_publish(folder)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        card_text = card.read_text(encoding="utf-8")
        document |= {"repository": push, "files": sizes, "text": card_text}
        shown = "\n".join(f"{size:>13,}  {name}" for name, size in sizes.items())
        text = f"{card_text}\nFiles for {push or 'the Hub'} (bytes, name):\n{shown}"
    console.print_result(document, text)
