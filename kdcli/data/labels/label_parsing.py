"""Labels as people write them: order of names, whitespace, lists written as text."""

import ast
import json
import re
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from kdcli.data import column_access
from kdcli.errors import DataError
from kdcli.sanitize import abbreviate_list

if TYPE_CHECKING:
    from datasets import Dataset

    from kdcli.data.column_access import RowLocator

_NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_NAME_WITH_NUMBER = re.compile(r"(.*\D)(\d+)", re.ASCII | re.DOTALL)
# transformers' name of an output that nobody named, or a number alone.
_NUMBER_OR_DEFAULT_NAME = re.compile(r"(?:LABEL_)?(-?\d+(?:\.\d+)?)", re.ASCII | re.IGNORECASE)
_LIST_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+\.?\d*|True|False)"""
# How numpy writes an array. Python would join 'a' 'b' to 'ab'.
_NUMPY_ARRAY = re.compile(rf"\[\s*{_LIST_ITEM}(?:\s+{_LIST_ITEM})+\s*\]", re.ASCII | re.DOTALL)
_MAX_SHOWN = 5


def sort_label_names(names: Iterable[str]) -> list[str]:
    """Distinct names, sorted: by number where all are numbers, or one prefix and a number."""
    found = set(names)
    if all(map(_NUMBER.fullmatch, found)):
        return sorted(found, key=lambda name: (Decimal(name), name))
    parts = {name: match for name in found if (match := _NAME_WITH_NUMBER.fullmatch(name))}
    if len(parts) == len(found) and len({match[1] for match in parts.values()}) == 1:
        return sorted(found, key=lambda name: (int(parts[name][2]), name))
    return sorted(found)


def label_names_by_number(names: Sequence[str]) -> dict[Decimal, str] | None:
    """Names by the number that each is (7, LABEL_7); None where one is no number, or two agree."""
    found = {
        Decimal(m[1]): name for name in names if (m := _NUMBER_OR_DEFAULT_NAME.fullmatch(name))
    }
    return found if len(found) == len(names) else None


def label_to_name(value: Any) -> str:
    """A label's name: 2.0, which a column of numbers with gaps makes of 2, is 2."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def parse_list_text(cell: Any) -> list[Any] | None:
    """Parse a list that is written as text; None where the cell is no such text.

    JSON is read, Python's `repr` of a list, tuple or set of names and numbers, and numpy's of an
    array: what pandas writes for them.
    """
    text = cell.strip() if isinstance(cell, str) else ""
    if text[:1] not in ("[", "(", "{"):
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = _literal_eval_list(text)
    if not isinstance(items, list | tuple | set):
        return None
    return [*items] if all(isinstance(item, str | int | float) for item in items) else None


def _literal_eval_list(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of backslashes that escape nothing
        try:
            if _NUMPY_ARRAY.fullmatch(text):
                return [ast.literal_eval(item) for item in re.findall(_LIST_ITEM, text)]
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None


def clean_label_cells(
    splits: Mapping[str, "Dataset"],
    column: str,
    row_locators: Mapping[str, "RowLocator"],
    notes: list[str],
) -> dict[str, "Dataset"]:
    """Strip whitespace around labels, and make lists of texts that write some.

    Args:
        splits: Each with `label`; what isn't text stays as it is.
        column: What the user calls the column.
        row_locators: By split, where its rows stand.
        notes: Told what was done.

    Raises:
        DataError: Some cells write lists, and others don't.
    """
    found = {part: _strip_label_whitespace(split) for part, split in splits.items()}
    if changed := sum(count for _, count in found.values()):
        cells = "1 label" if changed == 1 else f"{changed:,} labels"
        notes.append(f"Whitespace around {cells} of {column} is ignored.")
    return _parse_list_cells(
        {part: split for part, (split, _) in found.items()}, column, row_locators, notes
    )


def _has_text_labels(split: "Dataset") -> bool:
    return getattr(split.features["label"], "dtype", "") in ("string", "large_string")


def _strip_label_whitespace(split: "Dataset") -> tuple["Dataset", int]:
    """A split without whitespace around its labels, and how many had some."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if _has_text_labels(split):
        if all(value is None or value == value.strip() for value in split.unique("label")):
            return split, 0
        cells = split.select_columns("label").with_format("arrow")[:]["label"].combine_chunks()
        trimmed = pc.utf8_trim_whitespace(cells)
        return _replace_label_column(split, trimmed), pc.sum(pc.not_equal(cells, trimmed)).as_py()
    inner = getattr(split.features["label"], "feature", None)
    text = getattr(inner, "dtype", "") in ("string", "large_string")
    if not text or all(
        item is None or item == item.strip() for item in column_access.distinct_list_labels(split)
    ):
        return split, 0
    before = [*column_access.iterate_column_values(split, "label")]
    after = [row and [item and item.strip() for item in row] for row in before]
    changed = sum(
        item is not None and item != item.strip() for row in before if row for item in row
    )
    return _replace_label_column(split, pa.array(after, pa.list_(pa.string()))), changed


def _replace_label_column(split: "Dataset", labels: Any) -> "Dataset":
    return split.remove_columns("label").add_column("label", labels)


def _parse_list_cells(
    splits: dict[str, "Dataset"],
    column: str,
    row_locators: Mapping[str, "RowLocator"],
    notes: list[str],
) -> dict[str, "Dataset"]:
    import pyarrow as pa

    values = {
        part: split.unique("label") for part, split in splits.items() if _has_text_labels(split)
    }
    lists = {cell: parse_list_text(cell) for found in values.values() for cell in found}
    example = next((cell for cell, items in lists.items() if items is not None), None)
    if example is None:
        return splits
    example = example if len(example) <= 40 else f"{example[:39]}…"
    for part, found in values.items():
        if all(lists[cell] is not None for cell in found):
            continue
        cells = enumerate(column_access.iterate_column_values(splits[part], "label"))
        row, other = next((row, cell) for row, cell in cells if lists[cell] is None)
        what = f"{column} is {other[:40]!r}" if other else "there is no label"
        raise DataError(
            f"{row_locators[part](row)}: {what}, and other rows have lists, such as {example}.",
            "Write a list in every row: [] where a text has no label.",
        )
    items = {type(item) for of_cell in lists.values() for item in of_cell or ()}
    kind = pa.string() if str in items else pa.float64() if float in items else pa.int64()
    to = str if str in items else float if float in items else int
    typed = {cell: [to(item) for item in of_cell or ()] for cell, of_cell in lists.items()}
    notes.append(f"{column} holds lists that are written as text, such as {example}.")
    return splits | {
        part: _replace_label_column(
            splits[part],
            pa.array(
                [
                    typed[cell]
                    for cell in column_access.iterate_column_values(splits[part], "label")
                ],
                pa.list_(kind),
            ),
        )
        for part in values
    }


def similar_label_notes(label_names: Sequence[str]) -> list[str]:
    """Notes on labels that may be one: they differ in case, spaces or Unicode form only."""
    groups = defaultdict(list)
    for name in label_names:
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups[str(Decimal(key).normalize()) if _NUMBER.fullmatch(key) else key].append(name)
    found = [" / ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if not found:
        return []
    return [
        f"Labels that differ only in how they are written count as different: "
        f"{abbreviate_list(found, _MAX_SHOWN)}. Where they are one, write them alike in the data."
    ]
