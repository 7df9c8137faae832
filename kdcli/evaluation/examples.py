"""Each text with what each model says of it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from kdcli.errors import UsageError
from kdcli.evaluation import kinds
from kdcli.safe_files import replacing

if TYPE_CHECKING:
    from kdcli.evaluation.compare import Comparison

_LONGEST = 400


def table(comparison: "Comparison") -> pa.Table:
    """A row a text: `split`, `text`, `text_pair` for pairs, `label`, and two columns a model.

    They are called `NAME_label` and `NAME_probability`, which is the label's, as the model gives
    it; of several labels that all are as given. A score has none.
    """
    parts = []
    corpus = comparison.corpus
    kind = kinds.of(corpus.task)
    for split, answers in comparison.answers.items():
        rows = corpus.splits[split]
        texts = [name for name in ("text", "text_pair") if name in rows.column_names]
        count = len(corpus.labels)
        gold = kind.in_words(corpus.labels, corpus.truth(rows, range(count), count))
        columns: dict[str, Any] = {"split": [split] * len(rows)}
        columns |= {name: list(rows[name]) for name in texts}
        columns |= {"label": gold}
        for name, said in answers.items():
            columns[f"{name}_label"] = kind.in_words(comparison.labels, said.predictions)
            confidence = kind.confidence(said)
            if confidence is not None:
                columns[f"{name}_probability"] = confidence
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def apart(
    comparison: "Comparison", one: str, other: str, most: int = 100
) -> dict[str, list[dict[str, Any]]]:
    """By split, the texts that two models label differently.

    Those come first that `one` is surest of; of scores, those that differ most.

    Each as a row of `table`, without its split; of a long text the beginning.
    """
    rows = table(comparison).to_pylist()
    differ = [row for row in rows if row[f"{one}_label"] != row[f"{other}_label"]]

    def apartness(row: Mapping[str, Any]) -> float:
        if f"{one}_probability" in row:
            return float(row[f"{one}_probability"])
        return abs(float(row[f"{one}_label"]) - float(row[f"{other}_label"]))

    differ.sort(key=apartness, reverse=True)
    return {
        split: [_shown(row) for row in differ if row["split"] == split][:most]
        for split in comparison.answers
    }


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name != "split"}
    for name in ("text", "text_pair"):
        if len(shown.get(name, "")) > _LONGEST:
            shown[name] = shown[name][: _LONGEST - 1] + "…"
    return shown


def _json_lines(found: pa.Table, file: IO[bytes]) -> None:
    for row in found.to_pylist():
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


_WRITERS: Mapping[str, Callable[[pa.Table, IO[bytes]], Any]] = {
    ".parquet": pyarrow.parquet.write_table,
    ".csv": pyarrow.csv.write_csv,
    ".jsonl": _json_lines,
}


def check(file: Path) -> None:
    """Refuse a file of no known format, before there is anything to write.

    Raises:
        UsageError: Its ending is unknown.
    """
    if file.suffix not in _WRITERS:
        raise UsageError(
            f"--per-example {file}: its ending says no format.", f"Known: {', '.join(_WRITERS)}."
        )


def write(comparison: "Comparison", file: Path) -> None:
    """Write the table, in the format that the file's ending names: whole or not at all."""
    found = table(comparison)
    with replacing(file) as out:
        _WRITERS[file.suffix](found, out)
