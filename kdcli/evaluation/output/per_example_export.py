"""Each text with what each model says of it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from kdcli.data.column_access import TEXT_COLUMNS, text_column_names
from kdcli.errors import UsageError
from kdcli.evaluation.metrics import task_evaluators
from kdcli.safe_files import open_atomically

if TYPE_CHECKING:
    from kdcli.evaluation.compare import ModelComparison

_MAX_TEXT_LENGTH = 400


def per_example_table(comparison: "ModelComparison") -> pa.Table:
    """A row a text: `split`, `text`, `text_pair` for pairs, `label`, and two columns a model.

    They are called `NAME_label` and `NAME_probability`, which is the label's, as the model gives
    it; of several labels that all are as given. A score has none.
    """
    parts = []
    corpus = comparison.corpus
    kind = task_evaluators.get_task_evaluator(corpus.task)
    for split, answers in comparison.predictions.items():
        rows = corpus.splits[split]
        texts = text_column_names(rows)
        count = len(corpus.label_names)
        gold = kind.format_predictions(
            corpus.label_names, corpus.ground_truth_labels(rows, range(count), count)
        )
        columns: dict[str, Any] = {"split": [split] * len(rows)}
        columns |= {name: list(rows[name]) for name in texts}
        columns |= {"label": gold}
        for name, said in answers.items():
            columns[f"{name}_label"] = kind.format_predictions(comparison.labels, said.predicted)
            confidence = kind.prediction_confidence(said)
            if confidence is not None:
                columns[f"{name}_probability"] = confidence
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def find_disagreements(
    comparison: "ModelComparison", model: str, other_model: str, limit: int = 100
) -> dict[str, list[dict[str, Any]]]:
    """By split, the texts that two models label differently.

    Those come first that `model` is surest of; of scores, those that differ most.

    Each as a row of `table`, without its split; of a long text the beginning.
    """
    rows = per_example_table(comparison).to_pylist()
    differ = [row for row in rows if row[f"{model}_label"] != row[f"{other_model}_label"]]

    def apartness(row: Mapping[str, Any]) -> float:
        if f"{model}_probability" in row:
            return float(row[f"{model}_probability"])
        return abs(float(row[f"{model}_label"]) - float(row[f"{other_model}_label"]))

    differ.sort(key=apartness, reverse=True)
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
    """Refuse a file of no known format, before there is anything to write.

    Raises:
        UsageError: Its ending is unknown.
    """
    if path.suffix not in _WRITERS:
        raise UsageError(
            f"--per-example {path}: its ending says no format.", f"Known: {', '.join(_WRITERS)}."
        )


def write_per_example_file(comparison: "ModelComparison", path: Path) -> None:
    """Write the table, in the format that the file's ending names: whole or not at all."""
    found = per_example_table(comparison)
    with open_atomically(path) as out:
        _WRITERS[path.suffix](found, out)
