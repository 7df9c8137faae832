"""Help of the commands: flags without a value, unbroken paragraphs, and the page of bare `kd`."""

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

FIRST_STEPS = """\
kd distils a text classifier into a smaller, faster one.

First steps
  kd distill quickstart               try it on the messages that ship with kd
  kd distill texts.csv                distil your own texts and labels
  kd distill MODEL --data texts.csv   distil a classifier that you have
  kd init                             answer five questions, get a recipe

Then, with the folder of the run
  kd predict RUN "TEXT"               label texts or files
  kd evaluate RUN                     measure teacher and student again
  kd serve RUN                        answer over HTTP, with a page to try texts

All commands: kd --help. One command: kd distill --help."""


class Command(TyperCommand):
    """A command whose help shows no value for flags."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Typer keeps the line ends of a docstring, which are those of the source.
        self.help = re.sub(r"(?<!\n)\n(?!\n)", " ", self.help or "")

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, those of flags without the type `<bool>`."""
        return _without_flag_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose help shows no value for flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, those of flags without the type `<bool>`."""
        return _without_flag_types(super().get_params(ctx))


def _without_flag_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters
