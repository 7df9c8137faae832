"""`kd init-student`: cut an untrained student from a model, or from a recipe's teacher."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import (
    AllowCodeOption,
    AllowPickleOption,
    DryRunOption,
    FreshOption,
    JsonOption,
    QuietOption,
    SetOption,
)
from kdcli.sanitize import count_noun

if TYPE_CHECKING:
    from kdcli.pipeline.options import RunOptions
    from kdcli.recipe.overrides import Override

# Keys that select layers: a flag for one of them replaces the recipe's selection.
_LAYER_SELECTION_KEYS = (
    "drop_every",
    "keep_layers",
    "num_hidden_layers",
    "model",
    "keep_decoder_layers",
    "num_decoder_layers",
)
_WIDTH_TITLES = {
    "hidden": "hidden states",
    "heads": "attention heads",
    "ffn": "feed-forward neurons",
    "pieces": "vocabulary",
}


def init_student(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A Hub id, a folder, package:NAME/PATH, or a recipe."),
    ],
    drop_every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Drop every Nth layer: 2 keeps layers 0, 2, 4, …"),
    ] = None,
    keep_layers: Annotated[
        str | None, typer.Option(metavar="0,2,4", help="The layers to keep, counted from 0.")
    ] = None,
    num_hidden_layers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of layers to keep; --strategy chooses them."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="spaced, first, last, or importance on --data. Default: spaced."),
    ] = None,
    keep_decoder_layers: Annotated[
        str | None,
        typer.Option(metavar="0,2", help="The decoder's layers to keep."),
    ] = None,
    num_decoder_layers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Number of decoder layers to keep. Default: as the encoder."
        ),
    ] = None,
    num_attention_heads: Annotated[
        int | None, typer.Option(metavar="N", help="Attention heads to keep in each layer.")
    ] = None,
    intermediate_size: Annotated[
        int | None, typer.Option(metavar="N", help="Feed-forward neurons to keep in each layer.")
    ] = None,
    hidden_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Width of the hidden states; all weights are then random."),
    ] = None,
    trim_vocab: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Trim the vocabulary to these texts."),
    ] = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Vocabulary entries to keep. Default: 16000."),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="auto, same or distilbert. Default: auto.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Texts, without labels, to measure on: a Hub id, a file or a folder."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="The text column, or two for pairs: a,b.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The student's folder."),
    ] = None,
    overrides: SetOption = None,
    fresh: FreshOption = False,
    allow_pickle: AllowPickleOption = False,
    allow_code: AllowCodeOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Cut a student from a model: fewer layers, narrower layers, a smaller vocabulary.

    kd verifies that the cut computes what the teacher without those parts computes.
    """
    import json

    from kdcli.errors import UsageError
    from kdcli.pipeline.options import RunOptions
    from kdcli.recipe.recipe_lookup import is_recipe_not_model
    from kdcli.recipe.student import MUTUALLY_EXCLUSIVE_KEYS

    console = Console(json_output=json_output, quiet=quiet)
    if trim_vocab is not None and is_recipe_not_model(model):
        raise UsageError(
            "A recipe trims the vocabulary to its own training texts: --trim-vocab "
            f"{trim_vocab} can't be used with it.",
            "Set the number of vocabulary entries instead: --vocab-size N.",
        )
    if trim_vocab is not None and data not in (None, trim_vocab):
        raise UsageError(f"--data {data} and --trim-vocab {trim_vocab} are different texts.")
    given = {
        ("student.drop_every", "--drop-every"): drop_every,
        ("student.keep_layers", "--keep-layers"): keep_layers,
        ("student.num_hidden_layers", "--num-hidden-layers"): num_hidden_layers,
        ("student.strategy", "--strategy"): strategy,
        ("student.keep_decoder_layers", "--keep-decoder-layers"): keep_decoder_layers or None,
        ("student.num_decoder_layers", "--num-decoder-layers"): num_decoder_layers,
        ("student.num_attention_heads", "--num-attention-heads"): num_attention_heads,
        ("student.intermediate_size", "--intermediate-size"): intermediate_size,
        ("student.hidden_size", "--hidden-size"): hidden_size,
        ("student.trim_vocab", "--trim-vocab"): "true" if trim_vocab is not None else None,
        ("student.trim_vocab", "--vocab-size"): vocab_size,
        ("student.architecture", "--architecture"): architecture,
        ("data.dataset", "--trim-vocab"): trim_vocab or None,
        ("data.dataset", "--data"): data,
        ("data.text", "--text"): text,
    }
    for ways in MUTUALLY_EXCLUSIVE_KEYS:
        flags_by_key = {key.removeprefix("student."): flag for key, flag in given}
        named = [
            f"{flag} {value}"
            for (key, flag), value in given.items()
            if value is not None and key.removeprefix("student.") in ways
        ]
        if len(named) > 1:
            known = ", ".join(flags_by_key[key] for key in ways if key in flags_by_key)
            raise UsageError(f"{' and '.join(named)}: give one of {known}.")
    as_yaml: dict[str, Callable[[Any], str]] = {
        "student.keep_layers": "[{}]".format,
        "student.keep_decoder_layers": "[{}]".format,
        "data.dataset": json.dumps,
        "data.text": lambda names: json.dumps(names.split(",") if "," in names else names),
    }
    flags = [
        (f"{key}={as_yaml.get(key, str)(value)}", f"{flag} {value}")
        for (key, flag), value in given.items()
        if value is not None
    ]
    changes: list[Override] = [*(overrides or ()), *flags]
    build = _init_student_from_recipe if is_recipe_not_model(model) else _init_student_from_model
    options = RunOptions(fresh, allow_pickle, allow_code)
    build(model, changes, output, console, options, dry_run=dry_run)


def _init_student_from_recipe(
    recipe: str,
    overrides: "list[Override]",
    output: Path | None,
    console: Console,
    options: "RunOptions",
    *,
    dry_run: bool,
) -> None:
    from kdcli import distributed
    from kdcli.api import runs
    from kdcli.cli.common import show_run_plan

    named = {c[0].partition("=")[0] for c in overrides if isinstance(c, tuple)}
    cleared = []
    if named & {f"student.{key}" for key in _LAYER_SELECTION_KEYS}:
        cleared = [f"student.{key}=null" for key in _LAYER_SELECTION_KEYS] + [
            "student.strategy=spaced"
        ]
    changes = [*cleared, *overrides]
    if dry_run:
        show_run_plan(recipe, changes, output, console, "student", options)
        return
    run = runs.fine_tune_teacher(
        recipe,
        overrides=changes,
        output=output,
        until="student",
        fresh=options.fresh,
        allow_pickle=options.allow_pickle,
        allow_code=options.allow_code,
        reporter=console,
    )
    if distributed.is_main_process():
        result = dict(run.results["student"])
        if "speedup" in result and not console.json_output:
            _show_size_comparison(result, recipe, console)
        _show_created_student(run.path / "student-init", result, console)


def _init_student_from_model(
    model: str,
    overrides: "list[Override]",
    output: Path | None,
    console: Console,
    options: "RunOptions",
    *,
    dry_run: bool,
) -> None:
    from kdcli.api.student_init import create_untrained_student
    from kdcli.recipe.loading import config_from_flags
    from kdcli.recipe.schema import InitStudentCommandConfig

    def show(plan: dict[str, Any]) -> None:
        if dry_run or not console.json_output:
            _show_size_comparison(plan, model, console)

    spec = config_from_flags(InitStudentCommandConfig, overrides)
    folder = output or Path(f"{model.rstrip('/').rpartition('/')[2]}-student")
    result = create_untrained_student(
        model,
        spec,
        folder,
        console,
        overwrite=options.fresh,
        dry_run=dry_run,
        show_summary=show,
        allow_pickle=options.allow_pickle,
    )
    if not dry_run:
        _show_created_student(folder, result, console)


def _show_size_comparison(
    comparison: Mapping[str, Any], teacher_name: str, console: Console
) -> None:
    """Show teacher and student side by side."""
    models = (comparison["teacher"], comparison)
    rows = [
        [
            key.replace("_", " "),
            str(comparison["teacher"][key]),
            ", ".join(map(str, comparison[key])),
        ]
        for key in ("layers", "decoder_layers")
        if key in comparison
    ]
    rows += [
        [words, *(f"{m[key]:,}" for m in models)]
        for key, words in _WIDTH_TITLES.items()
        if key in comparison and comparison[key] != comparison["teacher"][key]
    ]
    rows += [
        ["parameters", *(f"{m['parameters'] / 1e6:.2f} M" for m in models)],
        ["weights", *(f"{m['megabytes']:.1f} MB" for m in models)],
        ["work for a token", *(f"{m['flops_per_token'] / 1e6:.1f} MFLOP" for m in models)],
        ["expected speed-up", "", f"{comparison['speedup']:.2f} times"],
    ]
    console.print_table(comparison, "", ["", teacher_name, "student"], rows)


def _show_created_student(folder: Path, result: Mapping[str, Any], console: Console) -> None:
    lines = [result["origin"]]
    if "agreement" in result:
        lines.append(
            f"Untrained, it agrees with its teacher on {100 * result['agreement']:.1f} % of "
            f"{count_noun(result['texts'], 'text')}."
        )
    lines.append(f"{result['parameters'] / 1e6:.2f} M parameters: {folder}")
    console.print_result({"student": str(folder), **result}, "\n".join(lines))
