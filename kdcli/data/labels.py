"""Labels have names; ids are only places in a list, and two lists may differ."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcli.errors import DataError, ModelError

if TYPE_CHECKING:
    from datasets import Dataset

_SHOWN = 8


def name_labels(splits: Mapping[str, "Dataset"], column: str) -> dict[str, "Dataset"]:
    """Make `column` a ClassLabel, the same in every split.

    A ClassLabel stays as it is, names are sorted, and integers are named by their digits.

    Args:
        splits: Each with `column`.
        column: Holds a ClassLabel's ids, names or integers.

    Raises:
        DataError: A label is missing, is no label (a fraction, a list), or none of a ClassLabel's.
    """
    from datasets import ClassLabel

    kinds = {name: split.features[column] for name, split in splits.items()}
    classes = next((kind for kind in kinds.values() if isinstance(kind, ClassLabel)), None)
    _refuse_gaps(splits, column, kinds)
    if classes is None:
        values = {v for split in splits.values() for v in split.unique(column)}
        if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            top = max(values, default=0)
            if min(values, default=0) < 0 or top >= 100_000:
                raise DataError(
                    f"Column {column} holds {min(values)} to {top}: labels count from 0.",
                    "Are these the labels? Name their column: data.label.",
                )
            classes = ClassLabel(names=[str(i) for i in range(top + 1)])
        else:
            classes = ClassLabel(names=sorted(map(str, values)))
    return {
        name: split if kinds[name] == classes else _cast(name, split, column, classes)
        for name, split in splits.items()
    }


def match_labels(
    data: Sequence[str], model: Sequence[str], *, present: Sequence[str] | None = None
) -> list[int]:
    """For each of the data's labels, the model's id of the same name.

    A model whose labels have no names of their own (LABEL_0, LABEL_1, …) is matched by place.

    Args:
        data: The data's label names, in the order of its ids.
        model: The model's label names, in the order of its outputs.
        present: The data's labels that occur; the others need no match and get -1.

    Raises:
        ModelError: A label that occurs is unknown to the model; both lists are in the message.
    """
    if is_generic(model) and len(model) == len(data):
        return list(range(len(data)))
    ids = {name: i for i, name in enumerate(model)}
    unknown = [name for name in (data if present is None else present) if name not in ids]
    if unknown:
        raise ModelError(
            f"The model doesn't know the label {unknown[0]!r}: the data has {_listed(data)}, "
            f"the model {_listed(model)}.",
            "Rename the labels of one, or fine-tune the model on this data.",
        )
    return [ids.get(name, -1) for name in data]


def is_generic(labels: Sequence[str]) -> bool:
    """Whether these are the names that transformers makes up where nobody gave any."""
    return list(labels) == [f"LABEL_{i}" for i in range(len(labels))]


def _refuse_gaps(splits: Mapping[str, "Dataset"], column: str, kinds: Mapping[str, Any]) -> None:
    from datasets import ClassLabel

    for name, split in splits.items():
        kind = getattr(kinds[name], "dtype", "list")
        if not (kind in ("string", "large_string", "bool") or kind.startswith(("int", "uint"))):
            raise DataError(
                f"Column {column} of split {name} holds {kind} values, and a label is a name or "
                "a whole number."
            )
        values = split.data.column(column)
        # A ClassLabel's -1 means that nobody knows, as in the test splits of GLUE.
        unknown = -1 if isinstance(kinds[name], ClassLabel) else ""
        for row, value in enumerate(values.to_pylist(), start=1):
            if value is None or value == unknown:
                raise DataError(
                    f"Row {row} of split {name} has no label (column {column}).",
                    f"Label it, or name another split: data.splits.{name}.",
                )


def _cast(name: str, split: "Dataset", column: str, classes: Any) -> "Dataset":
    ids = {label: i for i, label in enumerate(classes.names)}
    own = getattr(split.features[column], "names", None)
    names = [own[value] if own else str(value) for value in split[column]]
    unknown = next((label for label in names if label not in ids), None)
    if unknown is not None:
        raise DataError(
            f"Split {name} has the label {unknown!r}, which is none of {_listed(classes.names)}."
        )
    encoded = [ids[label] for label in names]
    return split.remove_columns(column).add_column(column, encoded, feature=classes)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown}, … ({len(names)})" if len(names) > _SHOWN else shown
