"""A text's one label. Labels have names; ids are places in a list, and two lists may differ."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdcli.data import column_access
from kdcli.data.column_access import RowLocator
from kdcli.data.labels.label_parsing import label_to_name, sort_label_names
from kdcli.errors import DataError
from kdcli.sanitize import abbreviate_list

if TYPE_CHECKING:
    from datasets import Dataset


LABEL_COLUMN_HINT = "Are these the labels? Name their column: data.label."


def encode_class_label_column(
    splits: Mapping[str, "Dataset"],
    column: str,
    row_locators: Mapping[str, RowLocator],
    notes: list[str],
) -> dict[str, "Dataset"]:
    """Make the column `label` a ClassLabel, the same in every split.

    A ClassLabel stays as it is. Otherwise a label's name is what is written, whole numbers too,
    and names are in the order of `in_order`.

    Args:
        splits: Each with `label`: a ClassLabel's ids, names or numbers.
        column: What the user calls the column.
        row_locators: By split, where its rows stand.
        notes: Told of a label that may stand for a missing one.

    Raises:
        DataError: A label is missing, is no label (a list), or none of a ClassLabel's.
    """
    from datasets import ClassLabel

    kinds = {name: split.features["label"] for name, split in splits.items()}
    classes = next((kind for kind in kinds.values() if isinstance(kind, ClassLabel)), None)
    for name, split in splits.items():
        _check_no_missing_labels(split, name, column, row_locators[name])
    if classes is None:
        values = {v for split in splits.values() for v in split.unique("label")}
        classes = ClassLabel(names=sort_label_names(map(label_to_name, values)))
        if -1 in values:
            notes.append(
                f"{column} holds -1 beside other numbers: it is a label of that name. "
                "Where it means that there is none, delete these rows."
            )
    return {
        name: split
        if kinds[name] == classes
        else _cast_to_class_label(split, classes, row_locators[name])
        for name, split in splits.items()
    }


def is_missing_label(value: Any, *, minus_one_is_missing: bool) -> bool:
    """Whether a label isn't there.

    Args:
        value: A ClassLabel's id, a name or a number.
        minus_one_is_missing: Whether -1 means that nobody knows; see `has_gap_code`.
    """
    if value is None or (minus_one_is_missing and value == -1):
        return True
    return value != value or not str(value).strip()  # noqa: PLR0124 (NaN differs from itself)


def marks_missing_with_minus_one(split: "Dataset") -> bool:
    """Whether -1 stands for a missing label: a ClassLabel's does, and one that is all there is.

    GLUE's test splits have -1 in every row.
    """
    feature = split.features["label"]
    if hasattr(feature, "names"):
        return True
    whole = getattr(feature, "dtype", "list").startswith(("int", "float"))
    return whole and split.unique("label") == [-1]


def _check_no_missing_labels(
    split: "Dataset", split_name: str, column: str, locate_row: RowLocator
) -> None:
    from datasets import ClassLabel

    feature = split.features["label"]
    kind = getattr(feature, "dtype", "list")
    if not kind.startswith(("string", "large_string", "bool", "int", "uint", "float")):
        raise DataError(
            f"{locate_row(0)}: {column} is of the kind {kind}, not a name or a whole number.",
            LABEL_COLUMN_HINT,
        )
    names = feature.names if isinstance(feature, ClassLabel) else None
    known = marks_missing_with_minus_one(split)
    if not any(
        is_missing_label(value, minus_one_is_missing=known)
        or (names and not 0 <= value < len(names))
        for value in split.unique("label")
    ):
        return
    for row, value in enumerate(column_access.iterate_column_values(split, "label")):
        if is_missing_label(value, minus_one_is_missing=known):
            raise DataError(
                f"{locate_row(row)}: there is no label.",
                f"Label it, or name another split: data.splits.{split_name}.",
            )
        if names and not 0 <= value < len(names):
            raise DataError(
                f"{locate_row(row)}: the label {value} is none of {abbreviate_list(names)}."
            )


def _cast_to_class_label(split: "Dataset", class_label: Any, locate_row: RowLocator) -> "Dataset":
    ids = {label: i for i, label in enumerate(class_label.names)}
    own = getattr(split.features["label"], "names", None)
    names = {value: own[value] if own else label_to_name(value) for value in split.unique("label")}
    if unknown := {value for value, name in names.items() if name not in ids}:
        row, value = next(
            (row, value)
            for row, value in enumerate(column_access.iterate_column_values(split, "label"))
            if value in unknown
        )
        raise DataError(
            f"{locate_row(row)}: the label {names[value]!r} is none of {abbreviate_list(class_label.names)}."
        )
    encoded = column_access.map_column_to_ids(
        split, "label", {value: ids[name] for value, name in names.items()}
    )
    return split.remove_columns("label").add_column("label", encoded, feature=class_label)
