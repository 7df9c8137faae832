"""Folds of the training texts, so that a model answers texts that it was not trained on."""

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from kdcli.data import pieces, repeats
from kdcli.errors import DataError
from kdcli.tasks import SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import Dataset


def folds(
    train: "Dataset", task: Task, count: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split texts into folds by different texts, stratified where each has one label.

    Repeats of a text (see `kdcli.data.repeats`) are in the same fold. A label that two different
    texts have is in every fold's training part.

    Args:
        train: With `text` (and `text_pair`) and `label`.
        task: What the labels are.
        count: How many folds.
        seed: Of their order.

    Returns:
        For each fold the places of the texts to train on, and of those to answer.

    Raises:
        DataError: There are fewer different texts than folds.
    """
    _, first, text = np.unique(repeats.keys(train), return_index=True, return_inverse=True)
    if len(first) < count:
        raise DataError(
            f"teacher.folds: train has {len(first)} different texts, and {count} folds need as "
            "many.",
            "Take fewer folds, or more texts.",
        )
    # Over different texts, and not `StratifiedGroupKFold` over all: with many labels that one
    # takes minutes where this takes milliseconds.
    splitter: KFold | StratifiedKFold = KFold(count, shuffle=True, random_state=seed)
    labels = pieces.ids(train)[first] if task is SINGLE_LABEL else None
    if labels is not None and np.bincount(labels).max() >= count:
        splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Of labels with fewer texts than folds: they are spread as far as they go.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        held_out = [np.isin(text, part) for _, part in splitter.split(first, labels)]
    return [(np.flatnonzero(~held), np.flatnonzero(held)) for held in held_out]
