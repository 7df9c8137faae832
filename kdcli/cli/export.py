"""`kd export`: write a classifier for runtimes without PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import AllowPickleOption, JsonOption, QuietOption, SetOption
from kdcli.sanitize import count_noun

if TYPE_CHECKING:
    from kdcli.onnx_export.precision_gates import ExportResult
    from kdcli.recipe.overrides import Override


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run folder (its student is exported), a folder, a Hub id, package:NAME/PATH.",
        ),
    ],
    precision: Annotated[
        Literal["float32", "int8", "int8-weights", "float16"] | None,
        typer.Option(
            help="int8 quantizes weights and activations, int8-weights weights alone. Default: "
            "int8 if there are texts to check it on, else float32."
        ),
    ] = None,
    export_format: Annotated[
        Literal["onnx", "openvino"],
        typer.Option("--format", help="model.onnx is always written too."),
    ] = "onnx",
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X",
            help="Take a safer precision if a validation metric drops by more: accuracy=0.005 "
            "(the default, of the primary metric). Repeatable.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Texts with labels to check the precision on: a Hub id, a file or a folder. "
            "Default: the run's own data."
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="The text column, or two for pairs: a,b.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The label column.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The folder. Default: NAME-onnx."),
    ] = None,
    docker: Annotated[
        bool, typer.Option("--docker", help="Add a Dockerfile that serves the model.")
    ] = False,
    overrides: SetOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the folder.")] = False,
    allow_pickle: AllowPickleOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Export a classifier to ONNX or OpenVINO, quantized as far as its accuracy allows.

    The folder works with kdcli.runtime, transformers, transformers.js and optimum.
    """
    import json
    from dataclasses import asdict

    from kdcli.evaluation.ci.quality_gates import parse_quality_gate

    console = Console(json_output=json_output, quiet=quiet)
    for gate in max_drop or ():
        parse_quality_gate("--max-drop", gate)

    # This takes seconds to import: report mistakes in the gates first.
    from kdcli.api.export import export_model

    given = {
        ("data.dataset", "--data"): data,
        ("data.text", "--text"): text.split(",") if text and "," in text else text,
        ("data.label", "--label"): label,
    }
    flags: list[Override] = [
        (f"{key}={json.dumps(value)}", f"{flag} {value}")
        for (key, flag), value in given.items()
        if value is not None
    ]
    folder, result = export_model(
        model,
        output,
        [*flags, *(overrides or ())],
        console,
        export_format=export_format,
        precision=precision,
        max_drop=tuple(max_drop) if max_drop else None,
        docker=docker,
        fresh=fresh,
        allow_pickle=allow_pickle,
    )
    console.print_result(
        {"folder": str(folder), **asdict(result)}, _describe_result(folder, result)
    )


def _describe_result(folder: Path, result: "ExportResult") -> str:
    lines = [
        f"{folder / 'onnx' / result.file}: {result.precision}, {result.megabytes:.1f} MB. The "
        f"float32 logits differ from PyTorch's by {result.largest_difference:.1g} of the largest."
    ]
    if result.validation is not None:
        drops = [f"{name} {-drop:+.4f}" for name, drop in result.validation["drops"].items()]
        texts = f"{result.validation['texts']:,} validation texts"
        sentence = f"On {texts}, against PyTorch: {', '.join(drops)}"
        if "changed_labels" in result.validation:
            sentence += f", {count_noun(result.validation['changed_labels'], 'other label')}"
        lines.append(f"{sentence}.")
        if result.precision == "int8" and "batch_changes" in result.validation:
            lines.append(
                "In batches of 32, "
                f"{count_noun(result.validation['batch_changes'], 'label')} came out different: "
                "run int8 on one text at a time, as kdcli.runtime does."
            )
    lines.append(f'Next: kd predict {folder} "TEXT"')
    return "\n".join(lines)
