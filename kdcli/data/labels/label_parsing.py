"""Labels as people write them: names, whitespace, and lists written as text."""

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
# The default name that transformers gives an output, or a number alone.
_NUMBER_OR_DEFAULT_NAME = re.compile(r"(?:LABEL_)?(-?\d+(?:\.\d+)?)", re.ASCII | re.IGNORECASE)
_LIST_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+\.?\d*|True|False)"""
# A numpy array as text: without commas, Python would join 'a' 'b' to 'ab'.
_NUMPY_ARRAY = re.compile(rf"\[\s*{_LIST_ITEM}(?:\s+{_LIST_ITEM})+\s*\]", re.ASCII | re.DOTALL)
_MAX_SHOWN = 5


def sort_label_names(names: Iterable[str]) -> list[str]:
    """Sort distinct names, by number if all are numbers or one prefix with a number."""
    distinct = set(names)
    if all(map(_NUMBER.fullmatch, distinct)):
        return sorted(distinct, key=lambda name: (Decimal(name), name))
    parts = {name: match for name in distinct if (match := _NAME_WITH_NUMBER.fullmatch(name))}
    if len(parts) == len(distinct) and len({match[1] for match in parts.values()}) == 1:
        return sorted(distinct, key=lambda name: (int(parts[name][2]), name))
    return sorted(distinct)


def parse_numbered_label_names(names: Sequence[str]) -> dict[Decimal, str] | None:
    """Parse numbers out of label names (7, LABEL_7), and map them to the names.

    Returns None if a name has no number, or two have the same.
    """
    by_number = {
        Decimal(m[1]): name for name in names if (m := _NUMBER_OR_DEFAULT_NAME.fullmatch(name))
    }
    return by_number if len(by_number) == len(names) else None


def label_to_name(value: Any) -> str:
    """The name of a label; 2.0 is 2, since a number column with gaps is read as floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def parse_list_text(cell: Any) -> list[Any] | None:
    """Parse a list that is written as text; None if the cell is something else.

    Accepts JSON and the text that pandas writes: Python's `repr` of a list, tuple or set of names
    and numbers, and numpy's of an array.
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


def parse_label_cells(
    splits: Mapping[str, "Dataset"],
    column: str,
    row_locators: Mapping[str, "RowLocator"],
    notes: list[str],
) -> dict[str, "Dataset"]:
    """Strip whitespace around labels, and parse lists that are written as text.

    Args:
        splits: Splits with `label`; labels that are no text stay as they are.
        column: The user's name of the column, for messages.
        row_locators: For each split, a function that describes where a row stands.
        notes: Gets a sentence for each change.

    Raises:
        DataError: Some cells are lists, and others are not.
    """
    stripped = {part: _strip_label_whitespace(split) for part, split in splits.items()}
    if changed := sum(count for _, count in stripped.values()):
        cells = "1 label" if changed == 1 else f"{changed:,} labels"
        notes.append(f"Whitespace around {cells} of {column} is ignored.")
    return _parse_list_cells(
        {part: split for part, (split, _) in stripped.items()}, column, row_locators, notes
    )


def _has_text_labels(split: "Dataset") -> bool:
    return getattr(split.features["label"], "dtype", "") in ("string", "large_string")


def _strip_label_whitespace(split: "Dataset") -> tuple["Dataset", int]:
    """Strip whitespace around labels; returns the split and the number of changed labels."""
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
    lists = {
        cell: parse_list_text(cell) for cells_of_split in values.values() for cell in cells_of_split
    }
    example = next((cell for cell, items in lists.items() if items is not None), None)
    if example is None:
        return splits
    example = example if len(example) <= 40 else f"{example[:39]}…"
    for part, cells_of_split in values.items():
        if all(lists[cell] is not None for cell in cells_of_split):
            continue
        cells = enumerate(column_access.iterate_column_values(splits[part], "label"))
        row, cell_value = next((row, cell) for row, cell in cells if lists[cell] is None)
        what = f"{column} is {cell_value[:40]!r}" if cell_value else "there is no label"
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
    """Notes on labels that may be the same: they differ in case, spaces or Unicode form only."""
    groups = defaultdict(list)
    for name in label_names:
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups[str(Decimal(key).normalize()) if _NUMBER.fullmatch(key) else key].append(name)
    similar = [" / ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if not similar:
        return []
    return [
        f"Labels that differ only in how they are written count as different: "
        f"{abbreviate_list(similar, _MAX_SHOWN)}. Where they are one, write them alike in the data."
    ]
