"""Texts that occur more than once: with another label, or in train and where it is measured.

Case, punctuation and the number of spaces make no difference here.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

_PUNCTUATION = re.compile(r"[^\w\s]|_")


def notes(splits: Mapping[str, "Dataset"]) -> list[str]:
    """What the user should know of texts that repeat; one pass over all of them.

    Args:
        splits: Each with `text`, `label`, and `text_pair` where the task is on pairs.
    """
    said = []
    keys = {part: _keys(split) for part, split in splits.items()}
    first: dict[str, int] = {}
    disagreeing: dict[str, set[str]] = {part: set() for part in splits}
    for part, split in splits.items():
        for key, label in zip(keys[part], split["label"][:], strict=True):
            if first.setdefault(key, label) != label:
                disagreeing[part].add(key)
    if count := len(set().union(*disagreeing.values())):
        within = (
            f", {len(disagreeing['train']):,} of them within train" if "train" in splits else ""
        )
        said.append(f"Texts that have more than one label: {count:,}{within}.")
    train = set(keys.pop("train", ()))
    seen = {part: sum(key in train for key in of_part) for part, of_part in keys.items()}
    if again := ", ".join(f"{count:,} in {part}" for part, count in seen.items() if count):
        said.append(
            f"Texts of train that occur again (case, punctuation and spaces aside): {again}. "
            "Measured on these, a model looks better than it is."
        )
    return said


def of_train(split: "Dataset", train: "Dataset") -> tuple[np.ndarray, np.ndarray]:
    """Which texts of a split also occur in train: those a model may have learnt by heart.

    Args:
        split: With `text` (and `text_pair`) and `label`.
        train: The same columns.

    Returns:
        (texts,) whether a text does; (texts,) whether it does with other labels only.
    """
    known: dict[str, set[int]] = {}
    for key, label in zip(_keys(train), train["label"][:], strict=True):
        known.setdefault(key, set()).add(label)
    found = [
        (known.get(key, set()), label)
        for key, label in zip(_keys(split), split["label"][:], strict=True)
    ]
    again = [bool(labels) for labels, _ in found]
    otherwise = [bool(labels) and label not in labels for labels, label in found]
    return np.array(again), np.array(otherwise)


def _keys(split: "Dataset") -> list[str]:
    keys = [_key(text) for text in split["text"][:]]
    if "text_pair" in split.column_names:
        keys = [f"{a}\0{_key(b)}" for a, b in zip(keys, split["text_pair"][:], strict=True)]
    return keys


def _key(text: str) -> str:
    # A text of nothing but punctuation is itself.
    return " ".join(_PUNCTUATION.sub("", text.casefold()).split()) or text
