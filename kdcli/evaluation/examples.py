"""Each text with what each model says of it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from kdcli.errors import UsageError

if TYPE_CHECKING:
    from kdcli.evaluation.compare import Comparison

_LONGEST = 400


def table(comparison: "Comparison") -> pa.Table:
    """A row a text: `split`, `text`, `text_pair` for pairs, `label`, and two columns a model.

    They are called `NAME_label` and `NAME_probability`, which is the label's, as the model gives
    it.
    """
    parts = []
    for split, answers in comparison.answers.items():
        rows = comparison.corpus.splits[split]
        texts = [name for name in ("text", "text_pair") if name in rows.column_names]
        gold = [comparison.corpus.labels[i] for i in rows["label"]]
        columns: dict[str, Any] = {"split": [split] * len(rows)}
        columns |= {name: list(rows[name]) for name in texts}
        columns |= {"label": gold}
        for name, said in answers.items():
            columns[f"{name}_label"] = [comparison.labels[i] for i in said.predictions]
            columns[f"{name}_probability"] = said.probabilities.max(-1)
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def apart(
    comparison: "Comparison", one: str, other: str, most: int = 100
) -> dict[str, list[dict[str, Any]]]:
    """By split, the texts that two models label differently, those first that `one` is surest of.

    Each as a row of `table`, without its split; of a long text the beginning.
    """
    rows = table(comparison).to_pylist()
    differ = [row for row in rows if row[f"{one}_label"] != row[f"{other}_label"]]
    differ.sort(key=lambda row: -row[f"{one}_probability"])
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


def _json_lines(found: pa.Table, file: Path) -> None:
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found.to_pylist())


_WRITERS: Mapping[str, Callable[[pa.Table, Path], Any]] = {
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
    beside = file.with_name(f".{file.name}.new")
    _WRITERS[file.suffix](table(comparison), beside)
    beside.replace(file)
