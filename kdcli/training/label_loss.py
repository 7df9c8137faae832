"""Options of the loss on labels: label smoothing, focal loss, class weights."""

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
    """Build the options of the losses of labels, with class weights from the labels' counts.

    Args:
        config: Label smoothing, focal gamma and the kind of class weights.
        labels: The training texts' labels, (texts,) or (texts, labels).
        num_classes: Number of classes or labels.
        task: The task.
    """
    weights, label_tensor = None, torch.tensor(np.asarray(labels))
    labelled = has_label_mask(label_tensor, task)
    label_tensor = label_tensor[labelled]
    if config.class_weights == "balanced":
        if task is MULTI_LABEL:
            present = label_tensor.sum(0)
            counts = torch.stack([len(label_tensor) - present, present])
            weights = len(label_tensor) / (2 * counts.clamp_min(1))
        else:
            texts = torch.bincount(label_tensor, minlength=num_classes)
            weights = len(label_tensor) / (torch.count_nonzero(texts) * texts.clamp_min(1))
    return LabelLossOptions(
        config.label_smoothing, config.focal_gamma, weights, bool(labelled.all())
    )


def check_label_options_for_task(config: TrainingConfig, task: Task, recipe_key: str) -> None:
    """Check that the training's options for labels are for the task.

    Args:
        config: The training's hyperparameters.
        task: The task.
        recipe_key: Their key in the recipe.

    Raises:
        RecipeError: One of them isn't.
    """
    is_set = {
        "label_smoothing": config.label_smoothing > 0,
        "class_weights": config.class_weights == "balanced",
        "focal_gamma": config.focal_gamma > 0,
        "sampling": config.sampling == "balanced",
    }
    unfit = {REGRESSION.name: tuple(is_set), MULTI_LABEL.name: ("sampling",)}.get(task.name, ())
    for key in unfit:
        if is_set[key]:
            reason = "scores are no classes" if task is REGRESSION else "texts have several classes"
            raise RecipeError(f"{recipe_key}.{key} is not for {task}: {reason}.", "Leave it out.")
