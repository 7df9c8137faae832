"""Inference of text and label columns, from column names and cells."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kdcli.data.labels import multilabel_encoding
from kdcli.data.labels.label_parsing import label_to_name, parse_list_text, sort_label_names
from kdcli.errors import DataError
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task

SampleRows = Sequence[Mapping[str, Any]]

# In order of preference.
_TEXT_COLUMN_NAMES = ("text", "sentence", "utterance")
_LABEL_COLUMN_NAMES = ("label", "labels", "intent", "gold_label", "class", "category", "score")
_TEXT_PAIR_NAMES = (
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("query", "passage"),
    ("query", "document"),
    ("context", "response"),
)
_FIRST_OF_NUMBERED_PAIR = re.compile(r"(.*?)[_-]?(1|a)", re.IGNORECASE)
_OUT_OF_SCOPE = re.compile(r"oos|ood|out of (scope|domain)|other|none( of (these|the above))?")
_MAX_LABEL_WORDS = 6
_SEPARATORS = (";", "|", ",")
_EMPTY_LABEL_CELLS = ("", "-1", "-1.0", "nan", "[]")
_WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)
_MIN_SPARSITY, _MIN_ROWS_PER_VALUE = 4, 5


@dataclass(frozen=True)
class InferredLabels:
    """Content of the label columns.

    Attributes:
        task: The type of the labels.
        names: The labels; empty for scores.
        separator: The separator between several labels in one cell.
        reason: Why the task was chosen, if the data leaves it open. The recipe then states it.
    """

    task: Task
    names: tuple[str, ...] = ()
    separator: str | None = None
    reason: str = ""


def infer_text_columns(
    rows: SampleRows, dataset_name: object, label_column: str | None = None
) -> tuple[str, ...]:
    """Infer the text column, or the two columns of a pair.

    Args:
        rows: A sample of the data.
        dataset_name: The name of the data, for messages.
        label_column: The label column, if it is known.

    Raises:
        DataError: Several columns or none may be it; the message lists them.
    """
    known = [name for name in rows[0] if name != label_column]
    if pair := _find_text_pair(known, rows):
        return pair
    likely = [
        name
        for name in known
        if _is_text_column(rows, name) and name.lower() not in _LABEL_COLUMN_NAMES
    ]
    return (_choose_column(likely, _TEXT_COLUMN_NAMES, known, "text", dataset_name),)


def infer_label_columns(
    rows: SampleRows, dataset_name: object, text_columns: Sequence[str] = ()
) -> tuple[str, ...]:
    """Infer the label column, or several columns of 0 and 1; see `infer_text_columns`."""
    known = [name for name in rows[0] if name not in text_columns]
    if not known:
        raise DataError(
            f"{dataset_name} has texts and no labels, and no recipe is guessed for these.",
            "Write one with data.label: null and a teacher that names the labels.",
        )
    likely = [
        name
        for name in known
        if _is_label_column(rows, name) and name.lower() not in _TEXT_COLUMN_NAMES
    ]
    usual = any(name.lower() in _LABEL_COLUMN_NAMES for name in likely)
    if len(likely) > 1 and not usual and all(_is_binary_column(rows, name) for name in likely):
        return tuple(likely)
    return (_choose_column(likely, _LABEL_COLUMN_NAMES, known, "label", dataset_name),)


def infer_task_and_labels(
    rows: SampleRows, label_columns: Sequence[str], *, cells_are_typed: bool = True
) -> InferredLabels:
    """Infer the task and the labels from the label columns.

    Args:
        rows: A sample of the data, from all splits that have labels.
        label_columns: One column, or a column of 0 and 1 for each label.
        cells_are_typed: Whether text cells are names, as in jsonl. In csv, numbers are text too.
    """
    if len(label_columns) > 1:
        return InferredLabels(MULTI_LABEL, tuple(label_columns))
    cells = [row.get(label_columns[0]) for row in rows]
    filled = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
    filled = [cell for cell in filled if cell is not None and cell != ""]
    lists = [items for cell in filled if (items := _parse_label_list(cell)) is not None]
    if lists and multilabel_encoding.are_multi_hot_lists(lists):
        names = tuple(f"LABEL_{i}" for i in range(max(map(len, lists))))
        why = "Lists of 0 and 1, one for each label, which has no name there."
        return InferredLabels(MULTI_LABEL, names, reason=why)
    if lists:
        return InferredLabels(
            MULTI_LABEL, _sorted_label_names(item for items in lists for item in items)
        )
    if scores := _parse_floats(filled, cells_are_typed=cells_are_typed):
        return _infer_labels_from_floats(filled, scores)
    for mark in _SEPARATORS:
        pieces = [[p.strip() for p in str(cell).split(mark)] for cell in filled]
        names = _sorted_label_names(piece for of_cell in pieces for piece in of_cell if piece)
        if any(len(p) > 1 for p in pieces) and len(names) < len(set(map(str, filled))):
            return InferredLabels(MULTI_LABEL, names, mark)
    return InferredLabels(SINGLE_LABEL, _sorted_label_names(filled))


def has_any_label(cells: Iterable[Any]) -> bool:
    """Return whether any of the cells is a label.

    Unlabeled test splits hold -1 in every row, as in GLUE, or nothing, as in Kaggle's files.
    """
    return any(cell is not None and str(cell).strip() not in _EMPTY_LABEL_CELLS for cell in cells)


def _parse_label_list(cell: Any) -> list[Any] | None:
    return cell if isinstance(cell, list) else parse_list_text(cell)


def _parse_floats(cells: Sequence[Any], *, cells_are_typed: bool) -> list[float]:
    """Parse cells as floats; empty unless all are numbers and one is written with a point."""
    if cells_are_typed and any(isinstance(cell, str) for cell in cells):
        return []
    try:
        numbers = [float(cell) for cell in cells]
    except (TypeError, ValueError, OverflowError):
        return []
    all_whole = all(
        isinstance(c, int) or (isinstance(c, str) and _WHOLE_NUMBER.fullmatch(c)) for c in cells
    )
    return [] if all_whole else numbers


def _infer_labels_from_floats(cells: Sequence[Any], scores: Sequence[float]) -> InferredLabels:
    values = sorted(set(scores))
    names = _sorted_label_names(cells)
    if all(value.is_integer() for value in values):
        why = "Whole numbers with a point: labels. Where they are scores, write task: regression."
        return InferredLabels(SINGLE_LABEL, names, reason=why)
    gaps = [b - a for a, b in pairwise(values)]
    # Grades stand on a scale of even steps; codes leave most of it out.
    sparse = gaps and values[-1] - values[0] > _MIN_SPARSITY * len(values) * min(gaps)
    if sparse and len(scores) >= _MIN_ROWS_PER_VALUE * len(values):
        why = "A few fractions, far apart: codes. Where they are scores, write task: regression."
        return InferredLabels(SINGLE_LABEL, names, reason=why)
    why = f"Fractions: scores. Where they are names, write task: {SINGLE_LABEL}."
    return InferredLabels(REGRESSION, reason=why)


def _sorted_label_names(labels: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sort_label_names(map(label_to_name, labels)))


def find_out_of_scope_label(label_names: Sequence[str]) -> str | None:
    """The label whose name means 'none of the others'; None if there is none."""
    return next(
        (n for n in label_names if _OUT_OF_SCOPE.fullmatch(re.sub("[_-]", " ", n.lower()))), None
    )


def _choose_column(
    candidates: Sequence[str],
    preferred_names: Sequence[str],
    all_columns: Sequence[str],
    role: str,
    dataset_name: object,
) -> str:
    for name in preferred_names:
        if called := [column for column in candidates if column.lower() == name]:
            return called[0]
    if len(candidates) == 1:
        return candidates[0]
    several = (
        f"it may be {abbreviate_list(candidates)}"
        if candidates
        else f"none of {abbreviate_list(all_columns)} is like one"
    )
    raise DataError(
        f"{dataset_name}: the {role} column can't be inferred: {several}.",
        "Name the columns: --text COLUMN (twice for a pair) and --label COLUMN.",
    )


def _find_text_pair(all_columns: Sequence[str], rows: SampleRows) -> tuple[str, str] | None:
    by_name = {name.lower(): name for name in all_columns if _is_text_column(rows, name)}
    for first, second in _TEXT_PAIR_NAMES:
        if first in by_name and second in by_name:
            return by_name[first], by_name[second]
    for name, column in by_name.items():
        if match := _FIRST_OF_NUMBERED_PAIR.fullmatch(name):
            second = name[: -len(match[2])] + {"1": "2", "a": "b"}[match[2]]
            if second in by_name:
                return column, by_name[second]
    return None


def _is_text_column(rows: SampleRows, column: str) -> bool:
    """Return whether a column holds strings of several words that mostly differ."""
    cells = [row.get(column) for row in rows]
    texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    if len(texts) < len(cells) / 2 or not all(isinstance(c, str | None) for c in cells):
        return False
    if all(parse_list_text(cell) is not None for cell in texts):
        return False
    words = sum(len(cell.split()) for cell in texts) / len(texts)
    # In scripts without spaces, a sentence is one word.
    is_long = sum(map(len, texts)) / len(texts) >= 20 or any(c > "\u2e80" for c in texts[0])
    return (words >= 2 or is_long) and len(set(texts)) > len(texts) / 2


def _is_label_column(rows: SampleRows, column: str) -> bool:
    """Return whether a column holds a few names or numbers that repeat, or lists of them."""
    values = [row.get(column) for row in rows]
    cells = [cell for cell in values if cell is not None and cell != ""]
    if cells and all(_parse_label_list(cell) is not None for cell in cells):
        cells = [item for cell in cells for item in _parse_label_list(cell) or ()]
    if not cells or not all(isinstance(cell, str | int | float) for cell in cells):
        return False
    if any(isinstance(c, str) and len(c.split()) > _MAX_LABEL_WORDS for c in cells):
        return False
    has_label_name = column.lower() in _LABEL_COLUMN_NAMES
    return has_label_name or len(set(cells)) <= len(cells) / 2


def _is_binary_column(rows: SampleRows, column: str) -> bool:
    return all(multilabel_encoding.parse_binary_flag(row.get(column)) is not None for row in rows)
