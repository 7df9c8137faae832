"""`kd predict`: label texts and files."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import AllowPickleOption, JsonOption, QuietOption
from kdcli.sanitize import count_noun

if TYPE_CHECKING:
    from kdcli.api.prediction_files import PredictionSummary, RowLabeler
    from kdcli.data.readers.row_streams import RowStream

# Standard input may be a person, or a log that grows: few lines are waited for.
_STDIN_CHUNK_ROWS = 16
# Every chunk is synced to the disk.
_CHUNK_ROWS = 4_096
_MAX_LABEL_WIDTH = 28


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run folder (its student labels), a folder, an exported file, a Hub id, "
            "package:NAME/PATH.",
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT...|FILE|-]",
            help="Texts; a file or folder of data; - for the lines of standard input.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data to label: a Hub id, a file or a folder.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the data. Default: the only one, or test.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="The text column, or two for pairs: a,b. Default: guessed.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write .jsonl, .csv, .tsv or .parquet; a call that was stopped goes on where it "
            "was. Default: JSON lines, or a table in a terminal.",
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Add the most probable labels, this many.")] = 0,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="Stop at a row that can't be labelled, or report it and leave it out."),
    ] = "stop",
    runtime: Annotated[
        Literal["onnx", "torch"] | None,
        typer.Option(help="Default: onnx for a model that was exported, else torch."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="PyTorch's device. Default: cuda if there is one, else cpu.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of an exported model. Default: all CPUs.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Texts in a batch. Default: as suits the model.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens to keep of a text. Default: as in training.")
    ] = None,
    truncation: Annotated[
        Literal["head", "tail", "both", "windows"] | None,
        typer.Option(help="Tokens to keep of a longer text. Default: as in training."),
    ] = None,
    cascade: Annotated[
        str | None,
        typer.Option(
            metavar="TEACHER",
            help="The model that labels the texts that MODEL is unsure of, by the rule that "
            "kd evaluate --cascade wrote.",
        ),
    ] = None,
    log_deferred: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append the texts that TEACHER labelled, as JSON lines."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the output file.")] = False,
    allow_pickle: AllowPickleOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Label texts, or the rows of a file, as kd evaluate does.

    Columns of the file are kept; label and probability are added.
    """
    from dataclasses import asdict

    from kdcli.api.cascade import CascadeClassifier
    from kdcli.api.prediction import load
    from kdcli.api.prediction_files import (
        PredictionOptions,
        RowLabeler,
        check_output,
        find_text_columns,
        predict_to_file,
    )
    from kdcli.data.row_writers import format_json_row

    console = Console(json_output=json_output, quiet=quiet)
    output = None if output is None else check_output(output, fresh=fresh)
    stream = _open_input(inputs or [], data, split, config, console)
    classifier = load(
        model,
        runtime=runtime,
        device=device,
        num_threads=threads,
        max_length=max_length,
        truncation=truncation,
        allow_pickle=allow_pickle,
    )
    if cascade is not None:
        teacher = load(cascade, runtime=runtime, device=device, allow_pickle=allow_pickle)
        classifier = CascadeClassifier(classifier, teacher, log=log_deferred)
    options = PredictionOptions(
        text=tuple(text.split(",")) if text else None,
        top_k=top_k,
        on_error=on_error,
        batch_size=batch_size,
        chunk_rows=_CHUNK_ROWS if stream.is_repeatable else _STDIN_CHUNK_ROWS,
        usual_text=find_text_columns(model),
    )
    if output is not None:
        summary = predict_to_file(classifier, stream, output, options, console)
        console.print_result(asdict(summary), _describe_summary(summary))
    else:
        labeler = RowLabeler(classifier, stream, options, console)
        rows = (row for chunk in labeler.iterate_chunks() for row in chunk)
        if json_output or not sys.stdout.isatty():
            console.print_lines(map(format_json_row, rows))
        else:
            console.print_lines(_format_table(rows, labeler))
    if isinstance(classifier, CascadeClassifier) and (alarm := classifier.alarm):
        console.info(f"Warning: {alarm}")


def _open_input(
    inputs: Sequence[str],
    data: str | None,
    split: str | None,
    config: str | None,
    console: Console,
) -> "RowStream":
    """Tell texts from files, and open them.

    Raises:
        UsageError: There is nothing to label, or a file is missing.
    """
    from kdcli.api.prediction_files import open_data
    from kdcli.data.readers.registry import file_format
    from kdcli.data.readers.row_streams import stream_texts
    from kdcli.errors import UsageError

    if data is not None:
        if inputs:
            raise UsageError("Give texts, or --data, not both.")
        return open_data(data, split, config, console)
    if not inputs and sys.stdin.isatty():
        raise UsageError(
            "There is nothing to label.", "Give texts, a file, or - for standard input."
        )
    if not inputs or [*inputs] == ["-"]:
        return stream_texts("standard input", _stdin_lines(), "line")
    for item in inputs:
        path = Path(item).expanduser()
        looks_like_file = " " not in item and file_format(path) is not None
        if len(item) < 4096 and (looks_like_file or path.exists()):
            if len(inputs) > 1:
                raise UsageError(f"{item} is a file: label one file at a time.")
            if not path.exists():
                raise UsageError(f"There is no file {item}.")
            return open_data(item, split, config, console)
    return stream_texts("arguments", inputs)


def _stdin_lines() -> Iterator[str]:
    """Yield the lines of standard input without their ends.

    Raises:
        DataError: A line is no UTF-8.
    """
    from kdcli.errors import DataError

    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"Standard input, line {number}: is not UTF-8 text.") from error


def _describe_summary(summary: "PredictionSummary") -> str:
    from kdcli.cli.console import format_duration

    rate = summary.rows / max(summary.seconds, 1e-9)
    lines = [
        f"{count_noun(summary.rows, 'row')} labelled in {format_duration(summary.seconds)} "
        f"({rate:,.0f} a second)."
    ]
    if summary.skipped:
        lines.append(f"{count_noun(summary.skipped, 'row')} could not be labelled and left out.")
    if summary.labels:
        by_count = sorted(summary.labels.items(), key=lambda item: -item[1])
        common = ", ".join(f"{label} {count:,}" for label, count in by_count[:5])
        lines.append(f"Most frequent: {common}.")
    if summary.deferred:
        lines.append(f"{count_noun(summary.deferred, 'row')} deferred to the teacher.")
    if summary.refused:
        lines.append(f"{count_noun(summary.refused, 'row')} below the out-of-scope threshold.")
    lines.append(f"Written: {summary.output}")
    return "\n".join(lines)


def _format_table(rows: Iterator[Mapping[str, Any]], labeler: "RowLabeler") -> Iterator[str]:
    """Format rows for a terminal: the prediction, and as much of the text as fits."""
    import shutil

    from kdcli.sanitize import printable

    names, width = labeler.column_names, shutil.get_terminal_size().columns
    longest = max(map(len, labeler.classifier.labels))
    label_width = min(max(longest, len("label")), _MAX_LABEL_WIDTH)
    is_regression = "score" in names
    heading = "score" if is_regression else "label".ljust(label_width) + "  probability"
    yield f"{heading}  text"
    for row in rows:
        if is_regression:
            answer = f"{row[names['score']]:.4g}".ljust(len("score"))
        else:
            label = row[names["label"]] if "label" in names else ", ".join(row[names["labels"]])
            shown = (
                f"{label or '(none)'}{' (refused)' if row.get(names.get('refused', '')) else ''}"
            )
            answer = f"{shown:<{label_width}}  {row[names['probability']]:11.2%}"
        text = " | ".join(str(row[column]) for column in labeler.text_columns)
        line = printable(f"{answer}  {' '.join(text.split())}")
        yield line if len(line) <= width else line[: width - 1] + "…"
