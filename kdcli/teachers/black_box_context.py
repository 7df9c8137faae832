"""The context that black box teachers get, and conversion of their predictions to logits."""

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
# Takes a split and a progress callback; returns logits, (texts, labels), in the order of the data's
# labels. The model or file is loaded once, before the first split.
PredictLogits = Callable[["Dataset", ProgressCallback], np.ndarray]
# Lower bound of probabilities, since log 0 is not finite.
MIN_PROBABILITY = 1e-6


@dataclass(frozen=True)
class BlackBoxContext:
    """Everything that a black box teacher gets beside the texts to label.

    Attributes:
        dataset_splits: The label names, and the texts that the teacher may be fitted to.
        data_config: Source of the texts.
        teacher_folder: The teacher's own folder: fitting writes to it, predicting reads from it.
        reporter: Shows notes and progress to the user.
        allow_pickle: Whether weights may be a pickle.
        allow_code: Whether the recipe's function may be imported and run.
        allow_endpoints: Hosts that texts may be sent to; see `permissions.resolve_api_key`.
    """

    dataset_splits: DatasetSplits
    data_config: DataConfig
    teacher_folder: Path
    reporter: Reporter
    allow_pickle: bool = False
    allow_code: bool = False
    allow_endpoints: tuple[str, ...] = ()


def convert_to_logits(values: np.ndarray, value_type: TeacherOutputType, task: Task) -> np.ndarray:
    """Convert probabilities to logits whose softmax or sigmoid gives the probabilities back.

    Args:
        values: (texts, labels), finite.
        value_type: Logits, and scores of a regression, are returned as they are.
        task: Decides between softmax and sigmoid.

    Returns:
        float32, (texts, labels). With one label per text, probabilities are first normalized to a
        sum of 1. None is below 1e-6.

    Raises:
        DataError: A probability is below 0 or above 1, or all of a text's are 0.
    """
    if value_type == "logits" or task is REGRESSION:
        return values.astype(np.float32)
    if wrong := values[(values < 0) | (values > 1)].tolist():
        raise DataError(
            f"{wrong[0]:g} is not a probability.",
            "If these are logits, set teacher.output_type: logits.",
        )
    if task is SINGLE_LABEL:
        sums = values.sum(1, keepdims=True)
        if not sums.all():
            raise DataError("A text's probabilities are all 0.")
        logits = np.log(np.clip(values / sums, MIN_PROBABILITY, 1))
    else:
        clipped = np.clip(values, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        logits = np.log(clipped) - np.log1p(-clipped)
    return logits.astype(np.float32)
