"""The context that black-box teachers get beside the texts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data.dataset_splits import DatasetSplits
from kdcli.progress import Reporter
from kdcli.recipe.data import DataConfig

if TYPE_CHECKING:
    from datasets import Dataset

ProgressCallback = Callable[[int, int], None]
# Takes a split and a progress callback; returns logits, (texts, labels), in the order of the data's
# labels. The model or file is loaded once, before the first split.
PredictLogits = Callable[["Dataset", ProgressCallback], np.ndarray]


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
