"""The command `kd`: its table of subcommands, and the one place where errors become exit codes."""

import errno
import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from kdcli import __version__
from kdcli.cli import card, distill, evaluate, fine_tune_teacher, init_student, recipe
from kdcli.cli.console import Console
from kdcli.errors import GateMissedError, KdError, MachineError, StoppedError, UsageError

# What the libraries below would otherwise write between our lines, or do unasked.
_ENVIRONMENT = {
    "DATASETS_VERBOSITY": "error",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}

app = typer.Typer(
    name="kd",
    help="Distil any text classifier into a smaller, faster one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _bounded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with every error turned into a sentence and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        warnings.simplefilter("ignore")
        try:
            command(*args, **options)
        except BrokenPipeError:
            # Whoever read standard output has gone; so does what is still in its buffer.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, typer.Exit | typer.BadParameter):
                raise
            known = _known(error)
            # A missed gate comes after the result: that is the document.
            as_json = bool(options.get("json_output")) and not isinstance(known, GateMissedError)
            Console(json_output=as_json).error(known)
            raise typer.Exit(known.exit_code) from error

    return run


def _known(error: BaseException) -> KdError:
    if isinstance(error, KdError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return StoppedError("Stopped.", "Run the same command again to go on.")
    if isinstance(error, MemoryError):
        return MachineError("There is not enough memory.", "Try a smaller batch_size.")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError(f"{str(error.filename)[:40]}… is too long for a name.")
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f"{error.filename}: " if error.filename else ""
        return MachineError(f"{where}{error.strerror}.", "What was finished is kept: run again.")
    if os.environ.get("KD_TRACEBACK"):
        traceback.print_exception(error)
    summary = str(error).strip().partition("\n")[0].rstrip(".")
    return MachineError(
        f"kd met something that it doesn't know: {type(error).__name__}: {summary}.",
        "This is a bug: please report it with what KD_TRACEBACK=1 prints.",
    )


def _version(asked: bool) -> None:
    if asked:
        Console().result({}, f"kd {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("distill")(_bounded(distill.distill))
app.command("fine-tune-teacher")(_bounded(fine_tune_teacher.fine_tune_teacher))
app.command("init-student")(_bounded(init_student.init_student))
app.command("evaluate")(_bounded(evaluate.evaluate))
app.command("card")(_bounded(card.card))

recipes = typer.Typer(help="Find, show, copy and check recipes.", no_args_is_help=True)
recipes.command("list")(_bounded(recipe.list_))
recipes.command("show")(_bounded(recipe.show))
recipes.command("copy")(_bounded(recipe.copy))
recipes.command("check")(_bounded(recipe.check))
recipes.command("schema")(_bounded(recipe.schema))
app.add_typer(recipes, name="recipe")


def main() -> None:
    """Run the command line; what the console script `kd` calls."""
    app()
