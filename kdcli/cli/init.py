"""`kd init`: ask for data and models, and write the recipe."""

import sys
from typing import Annotated

import typer

from kdcli.cli.console import Console


def init(
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="A file, a folder or a Hub id.")
    ] = None,
) -> None:
    """Write a recipe by answering five questions in a terminal."""
    from kdcli.errors import RunInterruptedError, UsageError

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "kd init asks questions, and this is no terminal.", "Use kd recipe new DATA."
        )
    try:
        _ask_and_write(data)
    except typer.Abort as error:
        raise RunInterruptedError("Stopped. No recipe is written.") from error


def _ask_and_write(data: str | None) -> None:
    from kdcli.api.recipe_generator import (
        AIMS,
        DEFAULT_TEACHER,
        RecipeRequest,
        guess_columns,
        recipe_for_data,
    )
    from kdcli.errors import DataError
    from kdcli.sanitize import printable

    console = Console()
    source = data or _ask("File, folder or Hub id of your texts")
    teacher = _ask("Teacher: a model to fine-tune, or a finished classifier", DEFAULT_TEACHER)
    text: tuple[str, ...] = ()
    label: str | None = None
    answered = False
    while True:
        try:
            guessed_text, guessed_labels = guess_columns(
                RecipeRequest(source, None, text, label, teacher)
            )
        except DataError as error:
            if "column" not in str(error):
                raise
            console.print_error(error)
            text, label, answered = (_ask("Text column"),), _ask("Label column"), True
            continue
        if answered:
            break
        answer = _ask("Text column, two with a comma for a pair", ",".join(guessed_text))
        named = tuple(part.strip() for part in answer.split(",") if part.strip())
        # Several columns of labels are one guess.
        labels = _ask("Label column", ",".join(guessed_labels)) if guessed_labels else ""
        if (named, labels) == (guessed_text, ",".join(guessed_labels)):
            break
        text, label, answered = named, labels or None, True
    for name, (_, _, about) in AIMS.items():
        console.info(f"{name}: {about}")
    aim = ""
    while aim not in AIMS:
        aim = _ask(f"Aim: {', '.join(AIMS)}", "balanced")
    path = recipe_for_data(RecipeRequest(source, None, text, label, teacher, aim), console)
    console.print_result({}, f"{printable(str(path))}\nNext: kd distill {path} --dry-run")


def _ask(question: str, default: str | None = None) -> str:
    return str(typer.prompt(question, default=default, err=True)).strip()
