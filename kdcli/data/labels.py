"""A text's one label. Labels have names; ids are places in a list, and two lists may differ."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcli.data import pieces
from kdcli.data.label_text import by_number, in_order
from kdcli.errors import DataError, ModelError

if TYPE_CHECKING:
    from datasets import Dataset

Place = Callable[[int], str]  # where the row of that number stands

OTHER_COLUMN = "Are these the labels? Name their column: data.label."
_SHOWN = 8


def name_labels(
    splits: Mapping[str, "Dataset"], column: str, places: Mapping[str, Place], notes: list[str]
) -> dict[str, "Dataset"]:
    """Make the column `label` a ClassLabel, the same in every split.

    A ClassLabel stays as it is. Otherwise a label's name is what is written, whole numbers too,
    and names are in the order of `in_order`.

    Args:
        splits: Each with `label`: a ClassLabel's ids, names or numbers.
        column: What the user calls the column.
        places: By split, where its rows stand.
        notes: Told of a label that may stand for a missing one.

    Raises:
        DataError: A label is missing, is no label (a list), or none of a ClassLabel's.
    """
    from datasets import ClassLabel

    kinds = {name: split.features["label"] for name, split in splits.items()}
    classes = next((kind for kind in kinds.values() if isinstance(kind, ClassLabel)), None)
    for name, split in splits.items():
        _refuse_gaps(split, name, column, places[name])
    if classes is None:
        values = {v for split in splits.values() for v in split.unique("label")}
        classes = ClassLabel(names=in_order(map(name_of, values)))
        if -1 in values:
            notes.append(
                f"{column} holds -1 beside other numbers: it is a label of that name. "
                "Where it means that there is none, delete these rows."
            )
    return {
        name: split if kinds[name] == classes else _cast(split, classes, places[name])
        for name, split in splits.items()
    }


def name_of(value: Any) -> str:
    """A label's name: 2.0, which a column of numbers with gaps makes of 2, is 2."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def match_labels(
    data: Sequence[str],
    model: Sequence[str],
    *,
    present: Sequence[str] | None = None,
    ordered: bool = True,
) -> list[int]:
    """For each of the data's labels, the model's id of the same name.

    Where names differ, labels that are numbers are matched by number: "7" is LABEL_7. Where one
    side has no names at all (LABEL_0, LABEL_1, …), labels are matched by place, if the data's have
    an order of their own. A model of a single output has a score to give.

    Args:
        data: The data's label names, in the order of its ids.
        model: The model's label names, in the order of its outputs.
        present: The data's labels that occur; the others need no match and get -1.
        ordered: Whether the data itself puts its labels in order; False where kd has sorted them.

    Raises:
        ModelError: A label that occurs is unknown to the model; both lists are in the message.
    """
    if len(model) == len(data) == 1:
        return [0]
    occur = data if present is None else present
    ids = {name: i for i, name in enumerate(model)}
    if unknown := [name for name in occur if name not in ids]:
        known, wanted = by_number(model), by_number(occur)
        if known is not None and wanted is not None and wanted.keys() <= known.keys():
            ids = {name: ids[known[number]] for number, name in wanted.items()}
            return [ids.get(name, -1) for name in data]
        alike = len(model) == len(data)
        if alike and (is_generic(data) or (is_generic(model) and ordered)):
            return list(range(len(data)))
        if alike and is_generic(model):
            raise ModelError(
                f"The model's outputs have no names ({listed(model)}), and nothing says which of "
                f"them the data's labels are: {listed(data)}.",
                "Name them in its config.json (id2label), or write the labels as the outputs' "
                "numbers, from 0.",
            )
        raise ModelError(
            f"The model doesn't know the label {unknown[0]!r}: the data has {listed(data)}, "
            f"the model {listed(model)}.",
            "Rename the labels of one, or fine-tune the model on this data.",
        )
    return [ids.get(name, -1) for name in data]


def explain_match(data: Sequence[str], model: Sequence[str]) -> str | None:
    """How labels of other names were matched, for the user; None where names are the same."""
    if len(model) < 2 or is_generic(data) == is_generic(model):
        return None
    if by_number(data) is not None and by_number(model) is not None:
        return "labels are matched with the data's by number"
    if is_generic(model):
        return "labels have no names: they are taken in the data's order"
    return "labels name those of the data, which have no names, in order"


def is_gap(value: Any, *, known: bool) -> bool:
    """Whether a label isn't there.

    Args:
        value: A ClassLabel's id, a name or a number.
        known: Whether -1 means that nobody knows; see `has_gap_code`.
    """
    if value is None or (known and value == -1):
        return True
    return value != value or not str(value).strip()  # noqa: PLR0124 (NaN differs from itself)


def has_gap_code(split: "Dataset") -> bool:
    """Whether -1 stands for a missing label: a ClassLabel's does, and one that is all there is.

    GLUE's test splits have -1 in every row.
    """
    feature = split.features["label"]
    if hasattr(feature, "names"):
        return True
    whole = getattr(feature, "dtype", "list").startswith(("int", "float"))
    return whole and split.unique("label") == [-1]


def is_generic(labels: Sequence[str]) -> bool:
    """Whether these are the names that transformers makes up where nobody gave any."""
    return list(labels) == [f"LABEL_{i}" for i in range(len(labels))]


def _refuse_gaps(split: "Dataset", name: str, column: str, place: Place) -> None:
    from datasets import ClassLabel

    feature = split.features["label"]
    kind = getattr(feature, "dtype", "list")
    if not kind.startswith(("string", "large_string", "bool", "int", "uint", "float")):
        raise DataError(
            f"{place(0)}: {column} is of the kind {kind}, not a name or a whole number.",
            OTHER_COLUMN,
        )
    names = feature.names if isinstance(feature, ClassLabel) else None
    known = has_gap_code(split)
    if not any(
        is_gap(value, known=known) or (names and not 0 <= value < len(names))
        for value in split.unique("label")
    ):
        return
    for row, value in enumerate(pieces.values(split, "label")):
        if is_gap(value, known=known):
            raise DataError(
                f"{place(row)}: there is no label.",
                f"Label it, or name another split: data.splits.{name}.",
            )
        if names and not 0 <= value < len(names):
            raise DataError(f"{place(row)}: the label {value} is none of {listed(names)}.")


def _cast(split: "Dataset", classes: Any, place: Place) -> "Dataset":
    ids = {label: i for i, label in enumerate(classes.names)}
    own = getattr(split.features["label"], "names", None)
    names = {value: own[value] if own else name_of(value) for value in split.unique("label")}
    if unknown := {value for value, name in names.items() if name not in ids}:
        row, value = next(
            (row, value)
            for row, value in enumerate(pieces.values(split, "label"))
            if value in unknown
        )
        raise DataError(
            f"{place(row)}: the label {names[value]!r} is none of {listed(classes.names)}."
        )
    encoded = pieces.coded(split, "label", {value: ids[name] for value, name in names.items()})
    return split.remove_columns("label").add_column("label", encoded, feature=classes)


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many there are."""
    shown = ", ".join(names[:_SHOWN])
    return f"{shown}, … ({len(names)})" if len(names) > _SHOWN else shown
