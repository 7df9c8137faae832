"""How the data's own labels count in a loss."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcli.errors import RecipeError
from kdcli.recipe.fit import FitSpec
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task


@dataclass(frozen=True)
class HardLabels:
    """Smoothing, focus and weights, as `losses.cross_entropy` takes them.

    `everywhere` is whether each training text has a label.
    """

    smoothing: float = 0.0
    focal: float = 0.0
    weights: Tensor | None = None
    everywhere: bool = True


def labelled(labels: Tensor, task: Task) -> Tensor:
    """Which texts have a label, (texts,), of labels as `encode.with_model_labels` gives them."""
    first = labels if labels.ndim == 1 else labels[:, 0]
    return ~first.isnan() if task is REGRESSION else first != task.missing


def hard_labels(
    spec: FitSpec, labels: np.ndarray, classes: int, task: Task = SINGLE_LABEL
) -> HardLabels:
    """What a fit says of its labels.

    Args:
        spec: Smoothing, focus, and whether classes count alike.
        labels: Those of the training texts, (texts,) or (texts, labels).
        classes: How many there are.
        task: What they are.
    """
    weights, found = None, torch.tensor(np.asarray(labels))
    there = labelled(found, task)
    found = found[there]
    if spec.class_weights == "balanced":
        if task is MULTI_LABEL:
            given = found.sum(0)
            counts = torch.stack([len(found) - given, given])
            weights = len(found) / (2 * counts.clamp_min(1))
        else:
            texts = torch.bincount(found, minlength=classes)
            weights = len(found) / (torch.count_nonzero(texts) * texts.clamp_min(1))
    return HardLabels(spec.label_smoothing, spec.focal, weights, bool(there.all()))


def refuse_unfit(spec: FitSpec, task: Task, part: str) -> None:
    """See that what a fit says of its labels means something for the task.

    Args:
        spec: The fit.
        task: What is learnt.
        part: The fit's key in the recipe.

    Raises:
        RecipeError: It doesn't.
    """
    said = {
        "label_smoothing": spec.label_smoothing > 0,
        "class_weights": spec.class_weights == "balanced",
        "focal": spec.focal > 0,
        "sampling": spec.sampling == "balanced",
    }
    unfit = {REGRESSION.name: tuple(said), MULTI_LABEL.name: ("sampling",)}.get(task.name, ())
    for key in unfit:
        if said[key]:
            what = "scores are no classes" if task is REGRESSION else "a text is of several classes"
            raise RecipeError(f"{part}.{key} is not for {task}: {what}.", "Leave it out.")
