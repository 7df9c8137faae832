"""Labels of which a text has any number: ids in a column of lists."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data import pieces
from kdcli.data.labels import Place, is_gap, listed
from kdcli.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_NONE = "A text without labels has an empty list."
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True}


def columns(labels: Sequence[str]) -> list[str]:
    """What the columns of 0 and 1 are called until they are one."""
    return [f"label {i}" for i in range(len(labels))]


def from_columns(split: "Dataset", labels: Sequence[str], place: Place) -> "Dataset":
    """One column of lists in place of one of 0 and 1 a label.

    Args:
        split: With the columns that `columns` names.
        labels: The labels' names.
        place: Where its rows stand.

    Raises:
        DataError: A cell is neither 0 nor 1.
    """
    standards = columns(labels)
    there = np.stack(
        [_flags(split, *names, place) for names in zip(standards, labels, strict=True)], axis=1
    )
    return with_lists(split.remove_columns(standards), there, labels)


def separated(split: "Dataset", separator: str, column: str, place: Place) -> "Dataset":
    """Lists in place of texts that name a row's labels, with something between them.

    Raises:
        DataError: A cell is missing, or no text.
    """
    import pyarrow as pa

    found: list[list[str]] = []
    for row, cell in enumerate(pieces.values(split, "label")):
        if not isinstance(cell, str | int):
            raise DataError(f"{place(row)}: {column} is {cell!r}, not text.", "Write '' for none.")
        names = (name.strip() for name in str(cell).split(separator))
        found.append([*dict.fromkeys(filter(None, names))])
    lists = pa.array(found, pa.list_(pa.string()))
    return split.remove_columns("label").add_column("label", lists)


def named(
    splits: Mapping[str, "Dataset"], column: str, places: Mapping[str, Place]
) -> dict[str, "Dataset"]:
    """Make the column `label` a list of a ClassLabel's ids, the same in every split.

    A ClassLabel stays as it is, names are sorted, and integers are named by their digits.

    Args:
        splits: Each with `label`: lists of a ClassLabel's ids, of names or of integers.
        column: What the user calls the column.
        places: By split, where its rows stand.

    Raises:
        DataError: A list is missing, or an item of it is no label or there twice.
    """
    own = {part: getattr(split.features["label"].feature, "names", None)
           for part, split in splits.items()}  # fmt: skip
    for part, split in splits.items():
        _refuse_faults(split, own[part], column, places[part])
    values = {part: _distinct(split) for part, split in splits.items()}
    names = next(filter(None, own.values()), None) or _names(set().union(*values.values()))
    ids = {name: i for i, name in enumerate(names)}
    found = {}
    for part, split in splits.items():
        called = own[part]
        to_ids = {v: ids[called[v] if called else str(v)] for v in values[part]}
        found[part] = _coded(split, to_ids, names)
    return found


def _names(values: set[Any]) -> list[str]:
    if all(isinstance(value, int) for value in values):
        return [str(i) for i in range(max(values, default=0) + 1)]
    return sorted({str(value) for value in values})


def _lists(split: "Dataset") -> "Iterator[pa.ChunkedArray]":
    for piece in split.select_columns("label").with_format("arrow").iter(10_000):
        yield piece["label"]


def _distinct(split: "Dataset") -> set[Any]:
    import pyarrow.compute as pc

    return {v for lists in _lists(split) for v in pc.unique(pieces.flat(lists)[1]).to_pylist()}


def _coded(split: "Dataset", ids: Mapping[Any, int], names: Sequence[str]) -> "Dataset":
    there, done = np.zeros((len(split), len(names)), dtype=bool), 0
    for lists in _lists(split):
        rows, values = pieces.flat(lists)
        there[done + rows, [ids[value] for value in values.to_pylist()]] = True
        done += len(lists)
    return with_lists(split.remove_columns("label"), there, names)


def with_lists(split: "Dataset", there: np.ndarray, names: Sequence[str]) -> "Dataset":
    """A split with the column `label`, lists of a ClassLabel; `there`: bool, (rows, labels)."""
    import pyarrow as pa
    from datasets import ClassLabel, List

    ends = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int32)
    lists = pa.ListArray.from_arrays(ends, pa.array(np.nonzero(there)[1].astype(np.int64)))
    feature = List(ClassLabel(names=[*names]))
    return split.add_column("label", lists, feature=feature)


def _flags(split: "Dataset", standard: str, label: str, place: Place) -> np.ndarray:
    found = np.empty(len(split), dtype=bool)
    for row, cell in enumerate(pieces.values(split, standard)):
        if (flag := _FLAGS.get(str(cell).capitalize())) is None:
            raise DataError(
                f"{place(row)}: {label} is {cell!r}, not 0 or 1.",
                "Name columns of 0 and 1 in data.label, or one column of lists.",
            )
        found[row] = flag
    return found


def _refuse_faults(
    split: "Dataset", names: Sequence[str] | None, column: str, place: Place
) -> None:
    for row, labels in enumerate(pieces.values(split, "label")):
        if labels is None:
            raise DataError(f"{place(row)}: there is no list of labels.", _NONE)
        for label in labels:
            if is_gap(label, known=names is not None):
                raise DataError(f"{place(row)}: {column} holds a label that is none.", _NONE)
            if names and not 0 <= label < len(names):
                raise DataError(f"{place(row)}: the label {label} is none of {listed(names)}.")
            if isinstance(label, int) and label < 0:
                raise DataError(f"{place(row)}: the label is {label}, and they count from 0.")
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise DataError(
                f"{place(row)}: {column} holds the label {twice} twice.",
                "A list names the labels that a text has; 0 and 1 are columns, one a label.",
            )
