"""A text's one label. Labels have names; ids are places in a list, and two lists may differ."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcli.data import pieces
from kdcli.errors import DataError, ModelError

if TYPE_CHECKING:
    from datasets import Dataset

Place = Callable[[int], str]  # where the row of that number stands

OTHER_COLUMN = "Are these the labels? Name their column: data.label."
_MOST = 100_000
_SHOWN = 8


def name_labels(
    splits: Mapping[str, "Dataset"], column: str, places: Mapping[str, Place]
) -> dict[str, "Dataset"]:
    """Make the column `label` a ClassLabel, the same in every split.

    A ClassLabel stays as it is, names are sorted, and integers are named by their digits.

    Args:
        splits: Each with `label`: a ClassLabel's ids, names or integers.
        column: What the user calls the column.
        places: By split, where its rows stand.

    Raises:
        DataError: A label is missing, is no label (a fraction, a list), or none of a ClassLabel's.
    """
    from datasets import ClassLabel

    kinds = {name: split.features["label"] for name, split in splits.items()}
    classes = next((kind for kind in kinds.values() if isinstance(kind, ClassLabel)), None)
    for name, split in splits.items():
        _refuse_gaps(split, name, column, places[name])
    if classes is None:
        values = {v for split in splits.values() for v in split.unique("label")}
        if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            _refuse_far(splits, places)
            classes = ClassLabel(names=[str(i) for i in range(max(values, default=0) + 1)])
        else:
            classes = ClassLabel(names=sorted({str(value) for value in values}))
    return {
        name: split if kinds[name] == classes else _cast(split, classes, places[name])
        for name, split in splits.items()
    }


def match_labels(
    data: Sequence[str], model: Sequence[str], *, present: Sequence[str] | None = None
) -> list[int]:
    """For each of the data's labels, the model's id of the same name.

    A model whose labels have no names of their own (LABEL_0, LABEL_1, …) is matched by place, and
    so is one of a single output: it has a score to give.

    Args:
        data: The data's label names, in the order of its ids.
        model: The model's label names, in the order of its outputs.
        present: The data's labels that occur; the others need no match and get -1.

    Raises:
        ModelError: A label that occurs is unknown to the model; both lists are in the message.
    """
    if len(model) == len(data) and (is_generic(model) or len(model) == 1):
        return list(range(len(data)))
    ids = {name: i for i, name in enumerate(model)}
    unknown = [name for name in (data if present is None else present) if name not in ids]
    if unknown:
        raise ModelError(
            f"The model doesn't know the label {unknown[0]!r}: the data has {listed(data)}, "
            f"the model {listed(model)}.",
            "Rename the labels of one, or fine-tune the model on this data.",
        )
    return [ids.get(name, -1) for name in data]


def is_gap(value: Any, *, known: bool) -> bool:
    """Whether a label isn't there.

    Args:
        value: A ClassLabel's id, a name or a number.
        known: Whether it is a ClassLabel's: -1 means that nobody knows, as in GLUE's test splits.
    """
    return value is None or (value == -1 if known else not str(value).strip())


def is_generic(labels: Sequence[str]) -> bool:
    """Whether these are the names that transformers makes up where nobody gave any."""
    return list(labels) == [f"LABEL_{i}" for i in range(len(labels))]


def _refuse_gaps(split: "Dataset", name: str, column: str, place: Place) -> None:
    from datasets import ClassLabel

    feature = split.features["label"]
    kind = getattr(feature, "dtype", "list")
    if not (kind in ("string", "large_string", "bool") or kind.startswith(("int", "uint"))):
        raise DataError(
            f"{place(0)}: {column} is of the kind {kind}, not a name or a whole number.",
            OTHER_COLUMN,
        )
    names = feature.names if isinstance(feature, ClassLabel) else None
    if not any(
        is_gap(value, known=names is not None) or (names and not 0 <= value < len(names))
        for value in split.unique("label")
    ):
        return
    for row, value in enumerate(pieces.values(split, "label")):
        if is_gap(value, known=names is not None):
            raise DataError(
                f"{place(row)}: there is no label.",
                f"Label it, or name another split: data.splits.{name}.",
            )
        if names and not 0 <= value < len(names):
            raise DataError(f"{place(row)}: the label {value} is none of {listed(names)}.")


def _refuse_far(splits: Mapping[str, "Dataset"], places: Mapping[str, Place]) -> None:
    for name, split in splits.items():
        if all(0 <= value < _MOST for value in split.unique("label")):
            continue
        for row, value in enumerate(pieces.values(split, "label")):
            if not 0 <= value < _MOST:
                raise DataError(
                    f"{places[name](row)}: the label is {value}, and labels that are numbers "
                    f"count from 0, to {_MOST - 1:,} at most.",
                    OTHER_COLUMN,
                )


def _cast(split: "Dataset", classes: Any, place: Place) -> "Dataset":
    ids = {label: i for i, label in enumerate(classes.names)}
    own = getattr(split.features["label"], "names", None)
    names = {value: own[value] if own else str(value) for value in split.unique("label")}
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
