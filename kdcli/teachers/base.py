"""What a black box is asked, and its answers as logits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import DataError
from kdcli.progress import Reporter
from kdcli.recipe.black_box_teachers import TeacherOutputType
from kdcli.recipe.data import DataConfig
from kdcli.tasks import REGRESSION, SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import Dataset

ProgressCallback = Callable[[int, int], None]
# Given a split and whom to tell of progress: its logits, (texts, labels) in the order of the data's
# labels. What answering needs, a model or a file, is loaded when it is opened, once for all splits.
PredictLogits = Callable[["Dataset", ProgressCallback], np.ndarray]
# What a label that is never given still has: log 0 is no number.
MIN_PROBABILITY = 1e-6


@dataclass(frozen=True)
class BlackBoxContext:
    """What a black box is given beside the texts.

    Attributes:
        dataset_splits: Names the labels, and holds the texts that it may be fitted to.
        data_config: Where they come from.
        teacher_folder: The teacher's own folder: what fitting leaves there, answering finds.
        reporter: Told what the user should know.
        allow_pickle: Whether weights may be a pickle.
        allow_code: Whether the recipe's function may be imported and run.
        allow_endpoints: Where the texts may be sent to; see `kdcli.teachers.consent.key_for`.
    """

    dataset_splits: DatasetSplits
    data_config: DataConfig
    teacher_folder: Path
    reporter: Reporter
    allow_pickle: bool = False
    allow_code: bool = False
    allow_endpoints: tuple[str, ...] = ()


def convert_to_logits(values: np.ndarray, value_type: TeacherOutputType, task: Task) -> np.ndarray:
    """Probabilities or logits as logits: softmax or sigmoid gives back the probabilities.

    Args:
        values: (texts, labels), finite.
        value_type: What they are; a score is taken as it is.
        task: What they are of.

    Returns:
        float32, (texts, labels). Of one label a text the probabilities are brought to a sum of 1,
        and none is under a millionth.

    Raises:
        DataError: A probability is below 0 or above 1, or all of a text's are 0.
    """
    if value_type == "logits" or task is REGRESSION:
        return values.astype(np.float32)
    if wrong := values[(values < 0) | (values > 1)].tolist():
        raise DataError(
            f"{wrong[0]:g} is no probability.",
            "If these are logits, say so: teacher.output_type: logits.",
        )
    if task is SINGLE_LABEL:
        sums = values.sum(1, keepdims=True)
        if not sums.all():
            raise DataError("A text's probabilities are all 0.")
        found = np.log(np.clip(values / sums, MIN_PROBABILITY, 1))
    else:
        held = np.clip(values, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        found = np.log(held) - np.log1p(-held)
    return found.astype(np.float32)
