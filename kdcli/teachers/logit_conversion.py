"""Convert a black-box teacher's probabilities or scores to logits."""

import numpy as np

from kdcli.errors import DataError
from kdcli.recipe.black_box_teachers import TeacherOutputType
from kdcli.tasks import REGRESSION, SINGLE_LABEL, Task

# Lower bound of probabilities, since log 0 is not finite.
MIN_PROBABILITY = 1e-6


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
