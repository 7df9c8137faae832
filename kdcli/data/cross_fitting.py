"""Cross-validation folds, so that a teacher predicts texts that it was not trained on."""

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
    """Split the training texts into folds, stratified if each text has one label.

    Duplicates of a text (see `kdcli.data.checks.duplicates`) are in the same fold. A label of at
    least two distinct texts occurs in the training part of every fold.

    Args:
        train: The train split, with `text` (and `text_pair`) and `label`.
        task: The type of the labels.
        fold_count: The number of folds.
        seed: Seed of the shuffle.

    Returns:
        For each fold, the row indices to train on and those to predict.

    Raises:
        DataError: There are fewer distinct texts than folds.
    """
    _, first, text = np.unique(
        duplicates.text_hashes(train), return_index=True, return_inverse=True
    )
    if len(first) < fold_count:
        raise DataError(
            f"teacher.cross_fit_folds: {fold_count} folds need {fold_count} different texts, and "
            "train has "
            f"{len(first)}.",
            "Use fewer folds or more texts.",
        )
    # Folds of distinct texts: `StratifiedGroupKFold` over all texts takes minutes with many labels.
    splitter: KFold | StratifiedKFold = KFold(fold_count, shuffle=True, random_state=seed)
    labels = column_access.label_ids(train)[first] if task is SINGLE_LABEL else None
    if labels is not None and np.bincount(labels).max() >= fold_count:
        splitter = StratifiedKFold(fold_count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Labels with fewer texts than folds are spread over as many folds as they have texts.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        held_out = [np.isin(text, part) for _, part in splitter.split(first, labels)]
    return [(np.flatnonzero(~held), np.flatnonzero(held)) for held in held_out]
