"""Flags that were renamed: the old ones still work, and no help shows them."""

from collections.abc import Mapping
from typing import Any, ClassVar

from kdcli.cli.console import Console
from kdcli.cli.help_pages import Command


class _CommandWithOldFlags(Command):
    """A command that accepts renamed flags under their old names.

    Attributes:
        new_flags: New names by old ones, without the dashes.
    """

    new_flags: ClassVar[Mapping[str, str]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Replace old flags, with or without `=VALUE`, up to `--`."""
        end = args.index("--") if "--" in args else len(args)
        console = Console(quiet="--quiet" in args or "-q" in args)
        current = [self._current_flag(arg, console) for arg in args[:end]]
        return super().parse_args(ctx, [*current, *args[end:]])

    def _current_flag(self, arg: str, console: Console) -> str:
        old, equals, value = arg.partition("=")
        new = self.new_flags.get(old.removeprefix("--")) if old.startswith("--") else None
        if new is None:
            return arg
        console.info(f"{old} is now --{new}.")
        return f"--{new}{equals}{value}"


class InitStudentCommand(_CommandWithOldFlags):
    """`kd init-student`."""

    new_flags = {  # noqa: RUF012
        "keep": "keep-layers",
        "layers": "num-hidden-layers",
        "decoder-keep": "keep-decoder-layers",
        "decoder-layers": "num-decoder-layers",
        "heads": "num-attention-heads",
        "ffn": "intermediate-size",
        "hidden": "hidden-size",
        "pieces": "vocab-size",
    }


class EvaluateCommand(_CommandWithOldFlags):
    """`kd evaluate`."""

    new_flags = {  # noqa: RUF012
        "refuse-at-most": "max-false-rejection-rate",
        "against": "reference-model",
    }
