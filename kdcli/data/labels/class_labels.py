"""A text's one label. Labels have names; ids are places in a list, and two lists may differ."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcli.data import column_access
from kdcli.data.labels.label_parsing import label_names_by_number, sort_label_names
from kdcli.errors import DataError, ModelError

if TYPE_CHECKING:
    from datasets import Dataset

RowLocator = Callable[[int], str]  # where the row of that number stands

LABEL_COLUMN_HINT = "Are these the labels? Name their column: data.label."
_MAX_SHOWN = 8


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


def label_to_name(value: Any) -> str:
    """A label's name: 2.0, which a column of numbers with gaps makes of 2, is 2."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def match_labels(
    data_labels: Sequence[str],
    model_labels: Sequence[str],
    *,
    present_labels: Sequence[str] | None = None,
    labels_are_ordered: bool = True,
) -> list[int]:
    """For each of the data's labels, the model's id of the same name.

    Where names differ, labels that are numbers are matched by number: "7" is LABEL_7. Where one
    side has no names at all (LABEL_0, LABEL_1, …), labels are matched by place, if the data's have
    an order of their own. A model of a single output has a score to give.

    Args:
        data_labels: The data's label names, in the order of its ids.
        model_labels: The model's label names, in the order of its outputs.
        present_labels: The data's labels that occur; the others need no match and get -1.
        labels_are_ordered: Whether the data itself puts its labels in order; False where kd has sorted them.

    Raises:
        ModelError: A label that occurs is unknown to the model; both lists are in the message.
    """
    if len(model_labels) == len(data_labels) == 1:
        return [0]
    occur = data_labels if present_labels is None else present_labels
    ids = {name: i for i, name in enumerate(model_labels)}
    if unknown := [name for name in occur if name not in ids]:
        known, wanted = label_names_by_number(model_labels), label_names_by_number(occur)
        if known is not None and wanted is not None and wanted.keys() <= known.keys():
            ids = {name: ids[known[number]] for number, name in wanted.items()}
            return [ids.get(name, -1) for name in data_labels]
        alike = len(model_labels) == len(data_labels)
        if alike and (
            are_default_label_names(data_labels)
            or (are_default_label_names(model_labels) and labels_are_ordered)
        ):
            return list(range(len(data_labels)))
        if alike and are_default_label_names(model_labels):
            raise ModelError(
                f"The model's outputs have no names ({abbreviate_names(model_labels)}), and nothing says which of "
                f"them the data's labels are: {abbreviate_names(data_labels)}.",
                "Name them in its config.json (id2label), or write the labels as the outputs' "
                "numbers, from 0.",
            )
        raise ModelError(
            f"The model doesn't know the label {unknown[0]!r}: the data has {abbreviate_names(data_labels)}, "
            f"the model {abbreviate_names(model_labels)}.",
            "Rename the labels of one, or fine-tune the model on this data.",
        )
    return [ids.get(name, -1) for name in data_labels]


def explain_label_match(data_labels: Sequence[str], model_labels: Sequence[str]) -> str | None:
    """How labels of other names were matched, for the user; None where names are the same."""
    if len(model_labels) < 2 or are_default_label_names(data_labels) == are_default_label_names(
        model_labels
    ):
        return None
    if (
        label_names_by_number(data_labels) is not None
        and label_names_by_number(model_labels) is not None
    ):
        return "labels are matched with the data's by number"
    if are_default_label_names(model_labels):
        return "labels have no names: they are taken in the data's order"
    return "labels name those of the data, which have no names, in order"


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


def are_default_label_names(labels: Sequence[str]) -> bool:
    """Whether these are the names that transformers makes up where nobody gave any."""
    return list(labels) == [f"LABEL_{i}" for i in range(len(labels))]


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
                f"{locate_row(row)}: the label {value} is none of {abbreviate_names(names)}."
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
            f"{locate_row(row)}: the label {names[value]!r} is none of {abbreviate_names(class_label.names)}."
        )
    encoded = column_access.map_column_to_ids(
        split, "label", {value: ids[name] for value, name in names.items()}
    )
    return split.remove_columns("label").add_column("label", encoded, feature=class_label)


def abbreviate_names(names: Sequence[str]) -> str:
    """The first of some names, and how many there are."""
    shown = ", ".join(names[:_MAX_SHOWN])
    return f"{shown}, … ({len(names)})" if len(names) > _MAX_SHOWN else shown
