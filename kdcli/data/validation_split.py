"""A validation split held out of the training texts."""

from typing import TYPE_CHECKING

import numpy as np

from kdcli.data import column_access
from kdcli.errors import DataError, first_message_line
from kdcli.recipe.data import DataConfig

if TYPE_CHECKING:
    from datasets import Dataset

_VALIDATION_SPLIT_HINT = (
    "Give more texts of each label, a larger data.validation_fraction, or a split of your own "
    "(data.splits.validation)."
)


def split_off_validation(
    train: "Dataset", data_config: DataConfig, seed: int, *, stratified: bool
) -> dict[str, "Dataset"]:
    """Hold a share of the training texts out: `data.validation_fraction`.

    Args:
        train: With the column `label`, a ClassLabel, where the split is stratified.
        data_config: Names the data set and the share.
        seed: Seed of the split.
        stratified: Whether each label keeps its share in both parts.

    Returns:
        `train` and `validation`.

    Raises:
        DataError: There are too few texts, or too few of a label.
    """
    from datasets import Dataset

    if stratified:
        names = train.features["label"].names
        counts = np.bincount(column_access.label_ids(train), minlength=len(names))
        count, name = min((n, name) for n, name in zip(counts, names, strict=True) if n)
        if count < 2:
            raise _cannot_split_error(train, data_config, f"the label {name!r} has only one text.")
    # Of the row numbers, in memory: for a data set on disk, datasets would write them into its
    # folder, which changes the hash of its content.
    rows = Dataset.from_dict({"row": np.arange(len(train))})
    if stratified:
        rows = rows.add_column(
            "label", column_access.label_ids(train), feature=train.features["label"]
        )
    try:
        parts = rows.train_test_split(
            test_size=data_config.validation_fraction,
            seed=seed,
            stratify_by_column="label" if stratified else None,
        )
    except ValueError as error:
        raise _cannot_split_error(train, data_config, first_message_line(error)) from error
    return {
        name: train.select(part["row"], keep_in_memory=True)
        for name, part in (("train", parts["train"]), ("validation", parts["test"]))
    }


def _cannot_split_error(train: "Dataset", data_config: DataConfig, reason: str) -> DataError:
    return DataError(
        f"No validation split can be held out of the {len(train):,} texts of "
        f"{data_config.dataset}: {reason}",
        _VALIDATION_SPLIT_HINT,
    )
