"""The teacher's logits on disk: computed once, read by every epoch.

They are a memory-mapped column, so that the teacher isn't in memory while the student trains.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data.readers import saved_dataset
from kdcli.tasks import SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import DatasetDict

TEACHER_LOGITS = "teacher_logits"


def write_teacher_logits(logits_by_split: dict[str, np.ndarray], folder: Path) -> None:
    """Write the teacher's logits, (rows, classes) for each split, as a dataset on disk."""
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

    splits = {}
    for name, logits in logits_by_split.items():
        flat = pa.array(np.ascontiguousarray(logits, dtype=np.float32).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, logits.shape[1])
        splits[name] = Dataset(pa.table({TEACHER_LOGITS: column}))
    DatasetDict(splits).save_to_disk(str(folder))


def ensemble_teacher_logits(
    logits_per_teacher: Sequence[np.ndarray], weights: Sequence[float], task: Task = SINGLE_LABEL
) -> np.ndarray:
    """Return the logits of the weighted mean of several teachers' probabilities or scores.

    You et al. 2017 (Learning from Multiple Teacher Networks), with weights.

    Args:
        logits_per_teacher: Each teacher's, (rows, classes), in one order of classes.
        weights: Each teacher's weight; they needn't sum to 1.
        task: The task.

    Returns:
        The mean's logits, float32, (rows, classes); for one label per text, log-probabilities.
    """
    shares = np.asarray(weights) / np.sum(weights)
    return task.average_logits(np.stack(logits_per_teacher).astype(np.float64), shares).astype(
        np.float32
    )


def load_teacher_logits(folder: Path) -> "DatasetDict":
    """Load the logits that `write_teacher_logits` has written, memory-mapped."""
    return saved_dataset.load_saved_dataset(folder)
