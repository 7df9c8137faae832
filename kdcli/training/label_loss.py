"""How the data's own labels count in a loss."""

import numpy as np
import torch

from kdcli.errors import RecipeError
from kdcli.losses.base import LabelLossOptions
from kdcli.losses.tensor_ops import has_label_mask
from kdcli.recipe.training import TrainingConfig
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task


def build_label_loss_options(
    config: TrainingConfig, labels: np.ndarray, num_classes: int, task: Task = SINGLE_LABEL
) -> LabelLossOptions:
    """What a fit says of its labels.

    Args:
        config: Smoothing, focus, and whether classes count alike.
        labels: Those of the training texts, (texts,) or (texts, labels).
        num_classes: How many there are.
        task: What they are.
    """
    weights, found = None, torch.tensor(np.asarray(labels))
    there = has_label_mask(found, task)
    found = found[there]
    if config.class_weights == "balanced":
        if task is MULTI_LABEL:
            given = found.sum(0)
            counts = torch.stack([len(found) - given, given])
            weights = len(found) / (2 * counts.clamp_min(1))
        else:
            texts = torch.bincount(found, minlength=num_classes)
            weights = len(found) / (torch.count_nonzero(texts) * texts.clamp_min(1))
    return LabelLossOptions(config.label_smoothing, config.focal, weights, bool(there.all()))


def check_label_options_for_task(config: TrainingConfig, task: Task, recipe_key: str) -> None:
    """See that what a fit says of its labels means something for the task.

    Args:
        config: The fit.
        task: What is learnt.
        recipe_key: The fit's key in the recipe.

    Raises:
        RecipeError: It doesn't.
    """
    said = {
        "label_smoothing": config.label_smoothing > 0,
        "class_weights": config.class_weights == "balanced",
        "focal": config.focal > 0,
        "sampling": config.sampling == "balanced",
    }
    unfit = {REGRESSION.name: tuple(said), MULTI_LABEL.name: ("sampling",)}.get(task.name, ())
    for key in unfit:
        if said[key]:
            what = "scores are no classes" if task is REGRESSION else "a text is of several classes"
            raise RecipeError(f"{recipe_key}.{key} is not for {task}: {what}.", "Leave it out.")
