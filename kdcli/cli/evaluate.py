"""`kd evaluate`: compare classifiers, and check metrics against gates."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import (
    AllowCodeOption,
    AllowPickleOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    SetOption,
)

if TYPE_CHECKING:
    from kdcli.evaluation.cascade.deferral_rule import Metric
    from kdcli.evaluation.ci.quality_gates import GateResult, QualityGate
    from kdcli.recipe.overrides import Override

_DEFAULT_PROMISE = 0.005


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Run folders (for teacher and student), folders, Hub ids, package:NAME/PATH.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="A Hub id, a file or a folder, read with the run's columns, task and length. "
            "Default: the run's own data."
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    text: Annotated[
        str | None, typer.Option(help="The text column, or two for pairs: a,b.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The label column.")] = None,
    overrides: SetOption = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="train, validation or test. Repeatable. Default: the run's."),
    ] = None,
    out_of_scope: Annotated[
        str | None, typer.Option(metavar="LABEL", help="The label that means none of the others.")
    ] = None,
    max_false_rejection_rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Choose a new out-of-scope threshold that rejects this share of in-scope "
            "validation texts. Default: the model's threshold, or the recipe's share.",
        ),
    ] = None,
    reference_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The model to compare the others with. Default: the teacher."
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X",
            help="Exit with 1 if a metric is lower: accuracy=0.91, test.macro_f1=0.9, "
            "accuracy.low=0.9 (lower end of the interval). Repeatable.",
        ),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X",
            help="Exit with 1 if a metric is higher: latency_ms_p50=5, "
            "relative.latency_ms_p50=0.6. Repeatable.",
        ),
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X",
            help="Exit with 1 if a metric is below the teacher's by more: accuracy=0.01. "
            "Repeatable. With --cascade: the drop to promise.",
        ),
    ] = None,
    cascade: Annotated[
        bool,
        typer.Option(
            "--cascade",
            help="Choose the confidence below which the student defers to the teacher, so that "
            "accuracy=0.005 (or agreement=…; --max-drop) is the largest drop.",
        ),
    ] = False,
    confidence: Annotated[
        float, typer.Option(help="With --cascade: probability that the promise holds.")
    ] = 0.95,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the result as JSON."),
    ] = None,
    per_example: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write each text with each model's label: .parquet, .csv or .jsonl.",
        ),
    ] = None,
    output_format: Annotated[
        Literal["table", "github", "junit"],
        typer.Option(
            "--format",
            help="github: table, annotations and step summary; junit: a test case per gate.",
        ),
    ] = "table",
    device: DeviceOption = None,
    allow_pickle: AllowPickleOption = False,
    allow_code: AllowCodeOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure any classifiers on the same texts: what they get right, and what they cost."""
    import json

    import kdcli
    from kdcli import plugins
    from kdcli.errors import GateFailedError, UsageError
    from kdcli.evaluation.ci import quality_gates

    if json_output and output_format != "table":
        raise UsageError(f"--json and --format {output_format} both want standard output.")
    console = Console(json_output=json_output, quiet=quiet)
    if device is not None:
        kdcli.use_device(device)
    held = [
        *(quality_gates.parse_quality_gate("--fail-under", text) for text in fail_under or ()),
        *(quality_gates.parse_quality_gate("--fail-over", text) for text in fail_over or ()),
        *(quality_gates.parse_quality_gate("--max-drop", text) for text in max_drop or ()),
    ]
    promise = _pop_promise(held) if cascade else None
    if output is not None:
        _check_output_file("--output", output)

    # These take seconds to import: report mistakes in the gates first.
    from kdcli.api.evaluation import evaluate_models
    from kdcli.evaluation.output import evaluation_schema, per_example_export
    from kdcli.safe_files import write_text_atomically

    if per_example is not None:
        _check_output_file("--per-example", per_example)
        per_example_export.check_per_example_format(per_example)
    given = {
        ("data.dataset", "--data"): data,
        ("data.config", "--config"): config,
        ("data.text", "--text"): text.split(",") if text and "," in text else text,
        ("data.label", "--label"): label,
        ("evaluate.splits", "--split"): split or None,
        ("evaluate.out_of_scope", "--out-of-scope"): out_of_scope,
        (
            "evaluate.max_false_rejection_rate",
            "--max-false-rejection-rate",
        ): max_false_rejection_rate,
    }
    flags: list[Override] = [
        (f"{key}={json.dumps(value)}", f"{flag} {value}")
        for (key, flag), value in given.items()
        if value is not None
    ]
    flags += overrides or ()
    plugins.set_code_allowed(allow_code)
    found = evaluate_models(models, flags, console, reference_model, allow_pickle=allow_pickle)
    footer = ""
    if promise is not None:
        from kdcli.api.cascade import add_cascades

        footer = "\n".join(add_cascades(found, *promise, confidence))
    if output is not None:
        write_text_atomically(output, evaluation_schema.format_evaluation_json(found.evaluation))
    if per_example is not None:
        per_example_export.write_per_example_file(found, per_example)
    checks = quality_gates.check_quality_gates(held, found.evaluation)
    missed = [str(check) for check in checks if not check.passed]
    _show_evaluation_and_gates(found.evaluation, checks, output_format, console, footer)
    if missed:
        raise GateFailedError(f"{len(missed)} of {len(checks)} gates were missed:", missed)


def _pop_promise(gates: "list[QualityGate]") -> "tuple[Metric, float]":
    """Take the gate of `--max-drop` as the promise of a cascade.

    Raises:
        UsageError: There are several, or the metric can't be promised.
    """
    from kdcli.errors import UsageError

    drops = [gate for gate in gates if gate.flag == "--max-drop"]
    for gate in drops:
        gates.remove(gate)
    if not drops:
        return "accuracy", _DEFAULT_PROMISE
    metric = drops[0].metric
    if len(drops) > 1 or drops[0].split or drops[0].interval_end:
        raise UsageError("--cascade takes one --max-drop, such as accuracy=0.005.")
    if metric not in ("accuracy", "agreement"):
        raise UsageError(f"--cascade can promise accuracy or agreement, not {metric}.")
    return ("agreement" if metric == "agreement" else "accuracy"), drops[0].limit


def _check_output_file(flag: str, path: Path) -> None:
    """Report an output file that can't be written before measuring."""
    from kdcli.errors import UsageError

    if path.is_dir():
        raise UsageError(f"{flag} {path} is a folder, not a file.")
    if not path.parent.is_dir():
        raise UsageError(f"{flag} {path}: there is no folder {path.parent}.")
    # The file is replaced by rename, for which its folder has to be writable.
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{flag} {path}: you may not write to {path.parent}.")


def _show_evaluation_and_gates(
    evaluation: Mapping[str, Any],
    checks: "Sequence[GateResult]",
    output_format: str,
    console: Console,
    footer: str,
) -> None:
    from kdcli.cli.common import show_evaluation_table
    from kdcli.evaluation.ci import formats

    if output_format == "junit":
        console.print_result({}, formats.junit_xml(checks))
        return
    gates = [
        {
            "gate": str(check.gate),
            "model": check.model,
            "split": check.split,
            "value": check.value,
            "passed": check.passed,
        }
        for check in checks
    ]
    missed = [str(check) for check in checks if not check.passed]
    show_evaluation_table(
        evaluation, {**evaluation, "gates": gates, "missed": missed}, "", console, footer
    )
    if output_format == "github":
        console.print_result({}, formats.github_annotations(checks))
        _append_step_summary(
            os.environ.get("GITHUB_STEP_SUMMARY"), formats.github_step_summary(evaluation, checks)
        )


def _append_step_summary(path: str | None, text: str) -> None:
    from kdcli.errors import UsageError
    from kdcli.safe_files import append_text

    if not path:
        return
    try:
        append_text(Path(path), text)
    except OSError as error:
        raise UsageError(f"GITHUB_STEP_SUMMARY: {path}: {error.strerror}.") from error
