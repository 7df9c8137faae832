"""Table of the texts with the predictions of each model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from kdcli.data.column_access import TEXT_COLUMNS, text_column_names
from kdcli.errors import UsageError
from kdcli.evaluation.metrics import base
from kdcli.safe_files import open_atomically

if TYPE_CHECKING:
    from kdcli.evaluation.compare import ModelComparison

_MAX_TEXT_LENGTH = 400


def per_example_table(comparison: "ModelComparison") -> pa.Table:
    """Build a table with a row for each text.

    Its columns are `split`, `text`, `text_pair` for pairs, `label`, and for each model
    `NAME_label` and `NAME_probability`. The probability is that of the prediction, for multi-label
    models that of all labels together; regression has none.
    """
    parts = []
    corpus = comparison.corpus
    evaluator = base.get_task_evaluator(corpus.task)
    for split, predictions in comparison.predictions.items():
        rows = corpus.splits[split]
        texts = text_column_names(rows)
        count = len(corpus.label_names)
        references = evaluator.format_predictions(
            corpus.label_names, corpus.ground_truth_labels(rows, range(count), count)
        )
        columns: dict[str, Any] = {"split": [split] * len(rows)}
        columns |= {name: list(rows[name]) for name in texts}
        columns |= {"label": references}
        for name, prediction in predictions.items():
            columns[f"{name}_label"] = evaluator.format_predictions(
                comparison.labels, prediction.predicted
            )
            confidence = evaluator.prediction_confidence(prediction)
            if confidence is not None:
                columns[f"{name}_probability"] = confidence
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def find_disagreements(
    comparison: "ModelComparison", model: str, other_model: str, limit: int = 100
) -> dict[str, list[dict[str, Any]]]:
    """Find the texts that two models label differently, by split.

    They are sorted by falling confidence of `model`; for regression, by falling difference. Each is
    a row of `per_example_table` without `split`, and with long texts cut.
    """
    rows = per_example_table(comparison).to_pylist()
    differ = [row for row in rows if row[f"{model}_label"] != row[f"{other_model}_label"]]

    def sort_key(row: Mapping[str, Any]) -> float:
        if f"{model}_probability" in row:
            return float(row[f"{model}_probability"])
        return abs(float(row[f"{model}_label"]) - float(row[f"{other_model}_label"]))

    differ.sort(key=sort_key, reverse=True)
    return {
        split: [_shorten_row(row) for row in differ if row["split"] == split][:limit]
        for split in comparison.predictions
    }


def _shorten_row(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name != "split"}
    for name in TEXT_COLUMNS:
        if len(shown.get(name, "")) > _MAX_TEXT_LENGTH:
            shown[name] = shown[name][: _MAX_TEXT_LENGTH - 1] + "…"
    return shown


def _write_json_lines(table: pa.Table, file: IO[bytes]) -> None:
    for row in table.to_pylist():
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


_WRITERS: Mapping[str, Callable[[pa.Table, IO[bytes]], Any]] = {
    ".parquet": pyarrow.parquet.write_table,
    ".csv": pyarrow.csv.write_csv,
    ".jsonl": _write_json_lines,
}


def check_per_example_format(path: Path) -> None:
    """Check the extension of a file.

    Raises:
        UsageError: The extension is none of a supported format.
    """
    if path.suffix not in _WRITERS:
        raise UsageError(
            f"--per-example {path}: unknown file format {path.suffix!r}.",
            f"Use one of {', '.join(_WRITERS)}.",
        )


def write_per_example_file(comparison: "ModelComparison", path: Path) -> None:
    """Write the table atomically, in the format of the file's extension."""
    table = per_example_table(comparison)
    with open_atomically(path) as out:
        _WRITERS[path.suffix](table, out)
