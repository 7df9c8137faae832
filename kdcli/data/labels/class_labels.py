"""Single-label columns, encoded as ClassLabels."""

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
    """Encode the column `label` as one ClassLabel for all splits.

    A ClassLabel is kept. Otherwise names and whole numbers become label names, in the order of
    `label_parsing.sort_label_names`.

    Args:
        splits: Splits with `label`: a ClassLabel, names or numbers.
        column: The user's name of the column, for messages.
        row_locators: For each split, a function that describes where a row stands.
        notes: Gets a sentence about a label -1, which may mean a missing label.

    Raises:
        DataError: A label is missing, is a list, or is outside of the ClassLabel.
    """
    from datasets import ClassLabel

    features = {name: split.features["label"] for name, split in splits.items()}
    class_label = next((f for f in features.values() if isinstance(f, ClassLabel)), None)
    for name, split in splits.items():
        _check_no_missing_labels(split, name, column, row_locators[name])
    if class_label is None:
        values = {v for split in splits.values() for v in split.unique("label")}
        class_label = ClassLabel(names=sort_label_names(map(label_to_name, values)))
        if -1 in values:
            notes.append(
                f"{column} holds -1 beside other numbers: it is a label of that name. "
                "Where it means that there is none, delete these rows."
            )
    return {
        name: split
        if features[name] == class_label
        else _cast_to_class_label(split, class_label, row_locators[name])
        for name, split in splits.items()
    }


def is_missing_label(value: Any, *, minus_one_is_missing: bool) -> bool:
    """Return whether a label is missing: None, NaN, blank text or, where it means that, -1.

    Args:
        value: A ClassLabel's id, a name or a number.
        minus_one_is_missing: Whether -1 means a missing label; see `marks_missing_with_minus_one`.
    """
    if value is None or (minus_one_is_missing and value == -1):
        return True
    return value != value or not str(value).strip()  # noqa: PLR0124 (NaN differs from itself)


def marks_missing_with_minus_one(split: "Dataset") -> bool:
    """Return whether -1 means a missing label in the column `label` of a split.

    It does in a ClassLabel, and if it is the only value, as in GLUE's test splits.
    """
    feature = split.features["label"]
    if hasattr(feature, "names"):
        return True
    is_number = getattr(feature, "dtype", "list").startswith(("int", "float"))
    return is_number and split.unique("label") == [-1]


def _check_no_missing_labels(
    split: "Dataset", split_name: str, column: str, locate_row: RowLocator
) -> None:
    from datasets import ClassLabel

    feature = split.features["label"]
    dtype = getattr(feature, "dtype", "list")
    if not dtype.startswith(("string", "large_string", "bool", "int", "uint", "float")):
        raise DataError(
            f"{locate_row(0)}: {column} is of the type {dtype}, not a name or a whole number.",
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
    own_names = getattr(split.features["label"], "names", None)
    names = {
        value: own_names[value] if own_names else label_to_name(value)
        for value in split.unique("label")
    }
    if unknown := {value for value, name in names.items() if name not in ids}:
        row, value = next(
            (row, value)
            for row, value in enumerate(column_access.iterate_column_values(split, "label"))
            if value in unknown
        )
        raise DataError(
            f"{locate_row(row)}: the label {names[value]!r} is none of "
            f"{abbreviate_list(class_label.names)}."
        )
    encoded = column_access.map_column_to_ids(
        split, "label", {value: ids[name] for value, name in names.items()}
    )
    return split.remove_columns("label").add_column("label", encoded, feature=class_label)
