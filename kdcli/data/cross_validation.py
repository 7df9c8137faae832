"""Folds of the training texts, so that a model answers texts that it was not trained on."""

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from kdcli.data import column_access
from kdcli.data.checks import duplicates
from kdcli.errors import DataError
from kdcli.tasks import SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import Dataset


def make_cross_validation_folds(
    train: "Dataset", task: Task, fold_count: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split texts into folds by different texts, stratified where each has one label.

    Repeats of a text (see `kdcli.data.repeats`) are in the same fold. A label that two different
    texts have is in every fold's training part.

    Args:
        train: With `text` (and `text_pair`) and `label`.
        task: What the labels are.
        fold_count: How many folds.
        seed: Of their order.

    Returns:
        For each fold the places of the texts to train on, and of those to answer.

    Raises:
        DataError: There are fewer different texts than folds.
    """
    _, first, text = np.unique(
        duplicates.text_hashes(train), return_index=True, return_inverse=True
    )
    if len(first) < fold_count:
        raise DataError(
            f"teacher.folds: train has {len(first)} different texts, and {fold_count} folds need as "
            "many.",
            "Take fewer folds, or more texts.",
        )
    # Over different texts, and not `StratifiedGroupKFold` over all: with many labels that one
    # takes minutes where this takes milliseconds.
    splitter: KFold | StratifiedKFold = KFold(fold_count, shuffle=True, random_state=seed)
    labels = column_access.label_ids(train)[first] if task is SINGLE_LABEL else None
    if labels is not None and np.bincount(labels).max() >= fold_count:
        splitter = StratifiedKFold(fold_count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Of labels with fewer texts than folds: they are spread as far as they go.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        held_out = [np.isin(text, part) for _, part in splitter.split(first, labels)]
    return [(np.flatnonzero(~held), np.flatnonzero(held)) for held in held_out]
