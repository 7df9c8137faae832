"""The command `kd`: its subcommands, and the conversion of errors to exit codes."""

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

from kdcli import __version__, distributed
from kdcli.api.progress_reporting import QUIET_ENVIRONMENT
from kdcli.cli import (
    card,
    data,
    distill,
    evaluate,
    export,
    fine_tune_teacher,
    init,
    init_student,
    predict,
    recipe,
    serve,
    signals,
    sweep,
)
from kdcli.cli.console import Console, prepare_standard_streams
from kdcli.cli.help_pages import FIRST_STEPS, Command, Group
from kdcli.cli.renamed_flags import EvaluateCommand, InitStudentCommand
from kdcli.errors import (
    ELSEWHERE_HINT,
    ExternalError,
    GateFailedError,
    KdError,
    ResourceError,
    RunInterruptedError,
    UsageError,
    as_resource_error,
    signal_number_of,
)
from kdcli.path_resolution import expand_local_path
from kdcli.recipe.renamed_keys import RenamedKeyWarning

app = typer.Typer(
    name="kd",
    cls=Group,
    help="Distil any text classifier into a smaller, faster one.\n\n"
    "Try it: kd distill quickstart. Then your own file: kd distill texts.csv.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _with_error_handling(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command: every error becomes a message and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        _configure_libraries()
        _show_only_renamed_keys(Console(quiet=bool(options.get("quiet"))))
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        try:
            command(*args, **_expand_home(options))
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, typer.Exit | typer.TyperException):
                raise
            known = _to_kd_error(error)
            # A missed gate follows the result, which is the JSON document.
            as_json = bool(options.get("json_output")) and not isinstance(known, GateFailedError)
            # Every process finds the recipe's mistakes: only the first reports them.
            if distributed.is_main_process() or isinstance(known, ExternalError):
                Console(json_output=as_json).print_error(known)
            raise typer.Exit(known.exit_code) from error

    return run


def _expand_home(options: dict[str, Any]) -> dict[str, Any]:
    """Expand `~` in paths: no shell does so in --output='~/x' or --output=~/x."""
    return {
        name: expand_local_path(str(value)) if isinstance(value, Path) else value
        for name, value in options.items()
    }


def _show_only_renamed_keys(console: Console) -> None:
    """Show old recipe keys and flags as notes; what the libraries warn of stays silent."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        # Of several processes the first one speaks.
        if issubclass(category, RenamedKeyWarning) and distributed.is_main_process():
            console.info(str(message))

    warnings.simplefilter("ignore")
    warnings.simplefilter("always", RenamedKeyWarning)
    warnings.showwarning = show


def _configure_libraries() -> None:
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if _is_hf_cache_writable():
        return
    # Local data and models need no lasting cache; a download reports that it has none.
    with suppress(OSError):
        scratch = tempfile.mkdtemp(prefix="kd-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        for name in ("HF_DATASETS_CACHE", "HF_METRICS_CACHE"):
            os.environ.setdefault(name, scratch)


def _is_hf_cache_writable() -> bool:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        home = Path(os.environ.get("HF_HOME") or f"{base}/huggingface").expanduser()
    except RuntimeError:  # the user has no home
        return False
    existing = next(path for path in (home, *home.parents) if os.access(path, os.F_OK))
    return os.access(existing, os.W_OK | os.X_OK)


def _to_kd_error(error: BaseException) -> KdError:
    if isinstance(error, KdError):
        return error
    if isinstance(error, KeyboardInterrupt):
        hint = "Run the same command again to continue."
        return RunInterruptedError("Stopped.", hint, signal_number_of(error))
    if shortage := as_resource_error(error):
        return shortage
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError(f"{str(error.filename)[:40]}… is too long for a file name.")
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return ResourceError(f"{where}{error.strerror}.", ELSEWHERE_HINT)
    if os.environ.get("KD_TRACEBACK"):
        traceback.print_exception(error)
    summary = str(error).strip().partition("\n")[0].rstrip(".")
    return ResourceError(
        f"Internal error in kd: {type(error).__name__}: {summary}.",
        "Please report this bug with the traceback that KD_TRACEBACK=1 prints.",
    )


def _print_version_and_exit(requested: bool) -> None:
    if requested:
        Console().print_result({}, f"kd {__version__}")
        raise typer.Exit


@app.callback()
def _root_callback(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version_and_exit, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        Console().print_result({}, FIRST_STEPS)


app.command("distill", cls=Command)(_with_error_handling(distill.distill))
app.command("init", cls=Command)(_with_error_handling(init.init))
app.command("fine-tune-teacher", cls=Command)(
    _with_error_handling(fine_tune_teacher.fine_tune_teacher)
)
app.command("sweep", cls=Command)(_with_error_handling(sweep.sweep))
app.command("init-student", cls=InitStudentCommand)(_with_error_handling(init_student.init_student))
app.command("evaluate", cls=EvaluateCommand)(_with_error_handling(evaluate.evaluate))
app.command("export", cls=Command)(_with_error_handling(export.export))
app.command("predict", cls=Command)(_with_error_handling(predict.predict))
app.command("serve", cls=Command)(_with_error_handling(serve.serve))
app.command("card", cls=Command)(_with_error_handling(card.card))

recipe_app = typer.Typer(
    cls=Group, help="List, show, copy, check and create recipes.", no_args_is_help=True
)
recipe_app.command("list", cls=Command)(_with_error_handling(recipe.list_recipes))
recipe_app.command("show", cls=Command)(_with_error_handling(recipe.show_recipe))
recipe_app.command("copy", cls=Command)(_with_error_handling(recipe.copy_recipe))
recipe_app.command("new", cls=Command)(_with_error_handling(recipe.create_recipe))
recipe_app.command("check", cls=Command)(_with_error_handling(recipe.check_recipe))
recipe_app.command("schema", cls=Command)(_with_error_handling(recipe.print_recipe_schema))
app.add_typer(recipe_app, name="recipe")

data_app = typer.Typer(
    cls=Group, help="Check the texts and labels of a recipe.", no_args_is_help=True
)
data_app.command("check", cls=Command)(_with_error_handling(data.check_data))
app.add_typer(data_app, name="data")


def _suggest_override(error: typer.TyperException) -> str:
    """Return a hint if an unknown option is the name of a recipe key, else an empty string."""
    option = getattr(error, "option_name", None)
    context = getattr(error, "ctx", None)
    flags = [flag for p in context.command.params for flag in p.opts] if context else []
    if not option or option in flags or "--set" not in flags:
        return ""
    from kdcli.recipe.validation import find_recipe_keys

    name = option.removeprefix("--").replace("-", "_")
    keys = find_recipe_keys(name)
    return f"Set the recipe key instead: --set {keys[0]}=VALUE." if keys else ""


def main() -> None:
    """Run the command line: the entry point of `kd`."""
    prepare_standard_streams()
    try:
        with signals.handle_stop_signals():
            distributed.exit_process(app(prog_name="kd", standalone_mode=False))
    except typer.TyperException as error:
        message = error.format_message()
        if message:  # without arguments, the help is already shown
            command = getattr(getattr(error, "ctx", None), "command_path", "kd")
            sentence = message if message.endswith((".", "?")) else f"{message}."
            hint = _suggest_override(error) or f"See {command} --help."
            mistake = UsageError(sentence, hint)
            Console(json_output="--json" in sys.argv).print_error(mistake)
        sys.exit(UsageError.exit_code)
