"""Which columns of a data set are its texts and its labels, by their names and what they hold."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.errors import DataError
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task

Rows = Sequence[Mapping[str, Any]]

# The first of a list that is there is meant, whatever else is.
_TEXTS = ("text", "sentence", "utterance")
_LABELS = ("label", "labels", "intent", "gold_label", "class", "category", "score")
_PAIRS = (
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("query", "passage"),
    ("query", "document"),
    ("context", "response"),
)
_NUMBERED = re.compile(r"(.*?)[_-]?(1|a)", re.IGNORECASE)
_OUT_OF_SCOPE = re.compile(r"oos|ood|out of (scope|domain)|other|none( of (these|the above))?")
_MOST_WORDS_OF_A_LABEL = 6
_SEPARATORS = (";", "|", ",")
_NO_LABEL = ("", "-1", "-1.0", "nan", "[]")


@dataclass(frozen=True)
class Labels:
    """What the labels' column, or columns, hold.

    Attributes:
        task: What is to be learnt.
        names: The labels; of a score none.
        separator: What stands between several in one cell.
    """

    task: Task
    names: tuple[str, ...] = ()
    separator: str | None = None


def texts(rows: Rows, where: object, label: str | None = None) -> tuple[str, ...]:
    """The column of the texts, or the two of a pair.

    Args:
        rows: A sample of the data.
        where: What the data is called.
        label: The labels' column, where it is known.

    Raises:
        DataError: It can't be told; the columns that it may be are in the message.
    """
    known = [name for name in rows[0] if name != label]
    if pair := _pair(known, rows):
        return pair
    likely = [name for name in known if _is_text(rows, name) and name.lower() not in _LABELS]
    return (_one(likely, _TEXTS, known, "text", where),)


def label(rows: Rows, where: object, texts: Sequence[str] = ()) -> tuple[str, ...]:
    """The column of the labels, or one of 0 and 1 for each of several; see `texts`."""
    known = [name for name in rows[0] if name not in texts]
    if not known:
        raise DataError(
            f"{where} has texts and no labels, and no recipe is guessed for these.",
            "Write one with data.label: null and a teacher that names the labels.",
        )
    likely = [name for name in known if _is_label(rows, name) and name.lower() not in _TEXTS]
    usual = any(name.lower() in _LABELS for name in likely)
    if len(likely) > 1 and not usual and all(_is_yes_or_no(rows, name) for name in likely):
        return tuple(likely)
    return (_one(likely, _LABELS, known, "label", where),)


def labels(rows: Rows, columns: Sequence[str]) -> Labels:
    """What the columns of the labels hold.

    Args:
        rows: A sample of the data, from all of its splits.
        columns: One, or one of 0 and 1 for each label.
    """
    if len(columns) > 1:
        return Labels(MULTI_LABEL, tuple(columns))
    cells = [row.get(columns[0]) for row in rows]
    found = [cell for cell in cells if is_labelled(cell)]
    lists = [cell for cell in found if isinstance(cell, list)]
    if lists:
        return Labels(MULTI_LABEL, _sorted(item for cell in lists for item in cell))
    if _are_fractions(found):
        return Labels(REGRESSION)
    for mark in _SEPARATORS:
        pieces = [[p.strip() for p in str(cell).split(mark)] for cell in found]
        names = _sorted(piece for of_cell in pieces for piece in of_cell if piece)
        if any(len(p) > 1 for p in pieces) and len(names) < len(set(map(str, found))):
            return Labels(MULTI_LABEL, names, mark)
    return Labels(SINGLE_LABEL, _sorted(found))


def is_labelled(cell: Any) -> bool:
    """Whether a cell of the labels' column says anything; an empty list says: none."""
    return cell is not None and cell not in ("", -1)


def any_labelled(cells: Iterable[Any]) -> bool:
    """Whether any of these cells is a label.

    Where all are -1, as in GLUE's test splits, or empty, as in Kaggle's, nobody has labelled them.
    """
    return any(cell is not None and str(cell).strip() not in _NO_LABEL for cell in cells)


def _are_fractions(cells: Sequence[Any]) -> bool:
    try:
        return any(not float(cell).is_integer() for cell in cells)
    except (TypeError, ValueError, OverflowError):
        return False


def _sorted(labels: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted({str(label) for label in labels}))


def out_of_scope(labels: Sequence[str]) -> str | None:
    """The label that stands for 'none of the others', where one is called so."""
    return next(
        (n for n in labels if _OUT_OF_SCOPE.fullmatch(re.sub("[_-]", " ", n.lower()))), None
    )


def _one(
    likely: Sequence[str], usual: Sequence[str], known: Sequence[str], key: str, where: object
) -> str:
    for name in usual:
        if called := [column for column in likely if column.lower() == name]:
            return called[0]
    if len(likely) == 1:
        return likely[0]
    several = f"it may be {_listed(likely)}" if likely else f"none of {_listed(known)} is like one"
    raise DataError(
        f"{where}: which column is the {key} can't be told: {several}.",
        "Name the columns: --text COLUMN (twice for a pair) and --label COLUMN.",
    )


def _pair(known: Sequence[str], rows: Rows) -> tuple[str, str] | None:
    by_name = {name.lower(): name for name in known if _is_text(rows, name)}
    for one, other in _PAIRS:
        if one in by_name and other in by_name:
            return by_name[one], by_name[other]
    for name, column in by_name.items():
        if match := _NUMBERED.fullmatch(name):
            other = name[: -len(match[2])] + {"1": "2", "a": "b"}[match[2]]
            if other in by_name:
                return column, by_name[other]
    return None


def _is_text(rows: Rows, column: str) -> bool:
    """Strings that mostly differ, and not all of one word."""
    cells = [row.get(column) for row in rows]
    found = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    if len(found) < len(cells) / 2 or not all(isinstance(c, str | None) for c in cells):
        return False
    words = sum(len(cell.split()) for cell in found) / len(found)
    # Where no spaces are written, a sentence is one word.
    long = sum(map(len, found)) / len(found) >= 20 or any(c > "\u2e80" for c in found[0])
    return (words >= 2 or long) and len(set(found)) > len(found) / 2


def _is_label(rows: Rows, column: str) -> bool:
    """A few names or numbers that come again and again, or lists of them."""
    found = [row.get(column) for row in rows]
    cells = [cell for cell in found if cell is not None and cell != ""]
    if cells and all(isinstance(cell, list) for cell in cells):
        cells = [item for cell in cells for item in cell]
    if not cells or not all(isinstance(cell, str | int | float) for cell in cells):
        return False
    if any(isinstance(c, str) and len(c.split()) > _MOST_WORDS_OF_A_LABEL for c in cells):
        return False
    called_so = column.lower() in _LABELS
    return called_so or len(set(cells)) <= len(cells) / 2


def _is_yes_or_no(rows: Rows, column: str) -> bool:
    return {str(row.get(column)).capitalize() for row in rows} <= {"0", "1", "True", "False"}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
