"""The command `kd`: its table of subcommands, and the one place where errors become exit codes."""

import atexit
import errno
import functools
import logging
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from kdcli import __version__, processes
from kdcli.cli import (
    card,
    data,
    distill,
    evaluate,
    fine_tune_teacher,
    init_student,
    recipe,
    stopping,
    sweep,
)
from kdcli.cli.console import Console, open_streams
from kdcli.errors import (
    ELSEWHERE,
    GateMissedError,
    KdError,
    MachineError,
    StoppedError,
    UsageError,
    WorldError,
    of_machine,
    signal_of,
)

# What the libraries below would otherwise write between our lines, or do unasked.
_ENVIRONMENT = {
    "DATASETS_VERBOSITY": "critical",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
}

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
        _prepare_libraries()
        warnings.simplefilter("ignore")
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        try:
            command(*args, **options)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, typer.Exit | typer.TyperException):
                raise
            known = _known(error)
            # A missed gate comes after the result: that is the document.
            as_json = bool(options.get("json_output")) and not isinstance(known, GateMissedError)
            # Of several processes each meets what is wrong with the recipe: the first one tells.
            if processes.is_first() or isinstance(known, WorldError):
                Console(json_output=as_json).error(known)
            raise typer.Exit(known.exit_code) from error

    return run


def _prepare_libraries() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if _cache_can_be_written():
        return
    # Local data and models need no cache that lasts; a download says that it has no place to go.
    with suppress(OSError):
        scratch = tempfile.mkdtemp(prefix="kd-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        for name in ("HF_DATASETS_CACHE", "HF_METRICS_CACHE"):
            os.environ.setdefault(name, scratch)


def _cache_can_be_written() -> bool:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        home = Path(os.environ.get("HF_HOME") or f"{base}/huggingface").expanduser()
    except RuntimeError:  # the user has no home
        return False
    there = next(place for place in (home, *home.parents) if os.access(place, os.F_OK))
    return os.access(there, os.W_OK | os.X_OK)


def _known(error: BaseException) -> KdError:
    if isinstance(error, KdError):
        return error
    if isinstance(error, KeyboardInterrupt):
        hint = "Run the same command again to go on."
        return StoppedError("Stopped.", hint, signal_of(error))
    if shortage := of_machine(error):
        return shortage
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError(f"{str(error.filename)[:40]}… is too long for a name.")
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return MachineError(f"{where}{error.strerror}.", ELSEWHERE)
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
app.command("sweep")(_bounded(sweep.sweep))
app.command("init-student")(_bounded(init_student.init_student))
app.command("evaluate")(_bounded(evaluate.evaluate))
app.command("card")(_bounded(card.card))

recipes = typer.Typer(help="Find, show, copy, check and write recipes.", no_args_is_help=True)
recipes.command("list")(_bounded(recipe.list_))
recipes.command("show")(_bounded(recipe.show))
recipes.command("copy")(_bounded(recipe.copy))
recipes.command("new")(_bounded(recipe.new))
recipes.command("check")(_bounded(recipe.check))
recipes.command("schema")(_bounded(recipe.schema))
app.add_typer(recipes, name="recipe")

of_data = typer.Typer(help="Look at the texts and labels of a recipe.", no_args_is_help=True)
of_data.command("check")(_bounded(data.check))
app.add_typer(of_data, name="data")


def main() -> None:
    """Run the command line; what the console script `kd` calls."""
    open_streams()
    try:
        with stopping.heard():
            processes.leave(app(prog_name="kd", standalone_mode=False))
    except typer.TyperException as error:
        message = error.format_message()
        if message:  # without arguments it is the help, which is shown already
            place = getattr(getattr(error, "ctx", None), "command_path", "kd")
            sentence = message if message.endswith((".", "?")) else f"{message}."
            mistake = UsageError(sentence, f"See {place} --help.")
            Console(json_output="--json" in sys.argv).error(mistake)
        sys.exit(UsageError.exit_code)
