"""Multi-label columns, encoded as lists of ClassLabel ids."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data import column_access
from kdcli.data.column_access import RowLocator
from kdcli.data.labels.class_labels import is_missing_label
from kdcli.data.labels.label_parsing import label_to_name, parse_list_text, sort_label_names
from kdcli.errors import DataError
from kdcli.sanitize import abbreviate_list

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_EMPTY_LIST_HINT = "A text without labels has an empty list."
_FLAG_VALUES = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def parse_binary_flag(cell: Any) -> bool | None:
    """Parse 0 and 1, true and false; None for anything else."""
    return _FLAG_VALUES.get(str(cell).strip().casefold())


def temporary_flag_columns(label_names: Sequence[str]) -> list[str]:
    """Names of the 0/1 columns until they are merged."""
    return [f"label {i}" for i in range(len(label_names))]


def merge_flag_columns(
    split: "Dataset", label_names: Sequence[str], locate_row: RowLocator
) -> "Dataset":
    """Merge columns of 0 and 1, one for each label, into one column of lists.

    Args:
        split: A split with the columns `temporary_flag_columns(label_names)`.
        label_names: The labels.
        locate_row: Describes where a row stands.

    Raises:
        DataError: A cell is neither 0 nor 1.
    """
    flag_columns = temporary_flag_columns(label_names)
    multi_hot = np.stack(
        [
            _parse_flag_column(split, *names, locate_row)
            for names in zip(flag_columns, label_names, strict=True)
        ],
        axis=1,
    )
    return add_label_id_lists(split.remove_columns(flag_columns), multi_hot, label_names)


def split_separated_labels(
    split: "Dataset", separator: str, column: str, locate_row: RowLocator
) -> "Dataset":
    """Split cells such as `a;b` at a separator, into a column of lists.

    Raises:
        DataError: A cell is missing, or is no text.
    """
    import pyarrow as pa

    label_lists: list[list[str]] = []
    for row, cell in enumerate(column_access.iterate_column_values(split, "label")):
        if not isinstance(cell, str | int):
            raise DataError(
                f"{locate_row(row)}: {column} is {cell!r}, not text.", "Write '' for none."
            )
        if parse_list_text(cell) is not None:
            raise DataError(
                f"{locate_row(row)}: {column} is {cell}, a list that is written as text.",
                "It is read as one: leave out data.label_separator.",
            )
        names = (name.strip() for name in str(cell).split(separator))
        label_lists.append([*dict.fromkeys(filter(None, names))])
    lists = pa.array(label_lists, pa.list_(pa.string()))
    return split.remove_columns("label").add_column("label", lists)


def encode_label_id_lists(
    splits: Mapping[str, "Dataset"],
    column: str,
    row_locators: Mapping[str, RowLocator],
    notes: list[str],
) -> dict[str, "Dataset"]:
    """Encode the column `label` as lists of label ids, by one ClassLabel for all splits.

    A ClassLabel is kept. Otherwise names and whole numbers become label names, in the order of
    `label_parsing.sort_label_names`. Lists of one length with only 0 and 1 are multi-hot.

    Args:
        splits: Splits with `label`: lists of a ClassLabel's ids, names, numbers, or 0 and 1.
        column: The user's name of the column, for messages.
        row_locators: For each split, a function that describes where a row stands.
        notes: Gets a sentence about multi-hot lists.

    Raises:
        DataError: A list is missing, a multi-hot list has another length, or an item is no label
            or occurs twice.
    """
    own_names = {part: getattr(split.features["label"].feature, "names", None)
           for part, split in splits.items()}  # fmt: skip
    if not any(own_names.values()) and (width := _multi_hot_width(splits)):
        notes.append(
            f"{column} holds lists of {width} values, 0 or 1: each says whether a label is there. "
            f"Without names, the labels are LABEL_0 to LABEL_{width - 1}, or the model's."
        )
        return {
            part: _decode_multi_hot_lists(split, width, column, row_locators[part])
            for part, split in splits.items()
        }
    for part, split in splits.items():
        _check_label_lists(split, own_names[part], column, row_locators[part])
    values = {part: column_access.distinct_list_labels(split) for part, split in splits.items()}
    names = next(filter(None, own_names.values()), None) or sort_label_names(
        map(label_to_name, set().union(*values.values()))
    )
    ids = {name: i for i, name in enumerate(names)}
    encoded = {}
    for part, split in splits.items():
        own = own_names[part]
        to_ids = {v: ids[own[v] if own else label_to_name(v)] for v in values[part]}
        encoded[part] = _encode_label_lists(split, to_ids, names)
    return encoded


def are_multi_hot_lists(lists: Sequence[Sequence[Any]]) -> bool:
    """Return whether the non-empty lists have one length above 1, and only 0 and 1 as items."""
    return len({len(items) for items in lists if items}) == 1 and all(
        len(items) != 1 and all(parse_binary_flag(item) is not None for item in items)
        for items in lists
    )


def _multi_hot_width(splits: Mapping[str, "Dataset"]) -> int:
    """The length of multi-hot lists, by train if there is one; 0 if lists hold label names."""
    import pyarrow.compute as pc

    checked_splits = [splits["train"]] if "train" in splits else [*splits.values()]
    if any(
        parse_binary_flag(value) is None
        for split in checked_splits
        for value in column_access.distinct_list_labels(split)
    ):
        return 0
    lengths = {
        length
        for split in checked_splits
        for lists in _iterate_label_lists(split)
        for length in pc.unique(pc.list_value_length(lists)).to_pylist()
        if length
    }
    return lengths.pop() if len(lengths) == 1 and 1 not in lengths else 0


def _decode_multi_hot_lists(
    split: "Dataset", width: int, column: str, locate_row: RowLocator
) -> "Dataset":
    multi_hot = np.empty((len(split), width), dtype=bool)
    for row, cells in enumerate(column_access.iterate_column_values(split, "label")):
        flags = [parse_binary_flag(cell) for cell in cells or ()]
        if len(flags) != width or None in flags:
            raise DataError(
                f"{locate_row(row)}: {column} is {str(cells)[:40]}, and train's lists are {width} "
                "values, 0 or 1: one for each label.",
                "Write as many, or name the labels that a text has: [] is none.",
            )
        multi_hot[row] = flags
    return add_label_id_lists(
        split.remove_columns("label"), multi_hot, [f"LABEL_{i}" for i in range(width)]
    )


def _iterate_label_lists(split: "Dataset") -> "Iterator[pa.ChunkedArray]":
    for piece in split.select_columns("label").with_format("arrow").iter(10_000):
        yield piece["label"]


def _encode_label_lists(
    split: "Dataset", label_ids: Mapping[Any, int], label_names: Sequence[str]
) -> "Dataset":
    multi_hot, done = np.zeros((len(split), len(label_names)), dtype=bool), 0
    for lists in _iterate_label_lists(split):
        rows, values = column_access.explode_lists(lists)
        multi_hot[done + rows, [label_ids[value] for value in values.to_pylist()]] = True
        done += len(lists)
    return add_label_id_lists(split.remove_columns("label"), multi_hot, label_names)


def add_label_id_lists(
    split: "Dataset", multi_hot: np.ndarray, label_names: Sequence[str]
) -> "Dataset":
    """Add a column `label`, lists of label ids, from a multi-hot bool array of (rows, labels)."""
    import pyarrow as pa
    from datasets import ClassLabel, List

    ends = np.concatenate([[0], np.cumsum(multi_hot.sum(1))]).astype(np.int32)
    lists = pa.ListArray.from_arrays(ends, pa.array(np.nonzero(multi_hot)[1].astype(np.int64)))
    feature = List(ClassLabel(names=[*label_names]))
    return split.add_column("label", lists, feature=feature)


def _parse_flag_column(
    split: "Dataset", column: str, label_name: str, locate_row: RowLocator
) -> np.ndarray:
    flags = np.empty(len(split), dtype=bool)
    for row, cell in enumerate(column_access.iterate_column_values(split, column)):
        flag = parse_binary_flag(cell)
        if flag is None:
            raise DataError(
                f"{locate_row(row)}: {label_name} is {cell!r}, not 0 or 1.",
                "Name columns of 0 and 1 in data.label, or one column of lists.",
            )
        flags[row] = flag
    return flags


def _check_label_lists(
    split: "Dataset", label_names: Sequence[str] | None, column: str, locate_row: RowLocator
) -> None:
    for row, labels in enumerate(column_access.iterate_column_values(split, "label")):
        if labels is None:
            raise DataError(f"{locate_row(row)}: there is no list of labels.", _EMPTY_LIST_HINT)
        for label in labels:
            if is_missing_label(label, minus_one_is_missing=label_names is not None):
                raise DataError(
                    f"{locate_row(row)}: {column} holds a label that is none.", _EMPTY_LIST_HINT
                )
            if label_names and not 0 <= label < len(label_names):
                raise DataError(
                    f"{locate_row(row)}: the label {label} is none of "
                    f"{abbreviate_list(label_names)}."
                )
            if isinstance(label, int | float) and label < 0:
                raise DataError(f"{locate_row(row)}: the label is {label}, and they count from 0.")
            if isinstance(label, float) and not label.is_integer():
                raise DataError(
                    f"{locate_row(row)}: {column} holds {label}, not a name or a whole number.",
                    _EMPTY_LIST_HINT,
                )
        if len(set(labels)) < len(labels):
            duplicate = next(label for label in labels if labels.count(label) > 1)
            raise DataError(
                f"{locate_row(row)}: {column} holds the label {duplicate} twice.",
                "A list names the labels that a text has, or all lists hold one value for each "
                "label, 0 or 1.",
            )
