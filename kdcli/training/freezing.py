"""What a fit leaves alone: dropout that is turned down, and layers that stay as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from kdcli.errors import RecipeError
from kdcli.models.layer_stacks import find_layer_stacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def override_dropout(model: "PreTrainedModel", rate: float | None) -> Iterator[None]:
    """Within the block all of the model's dropout has this rate.

    Its configuration, and so what is saved, keeps its own.

    Args:
        model: Any.
        rate: Between 0 and 1; None leaves the model's own.
    """
    if rate is None:
        yield
        return
    before = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if (isinstance(module, nn.Dropout) and name == "p")
        or ("dropout" in name and isinstance(value, float))
    ]
    for module, name, _ in before:
        setattr(module, name, rate)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@contextmanager
def freeze_layers(model: "PreTrainedModel", num_layers: int | None) -> Iterator[None]:
    """Within the block the embeddings, and so many of the first layers, aren't trained.

    Args:
        model: A classifier.
        num_layers: How many; 0 is the embeddings alone, None nothing.

    Raises:
        RecipeError: It has fewer layers, or more than one stack of them.
    """
    if num_layers is None:
        yield
        return
    found = find_layer_stacks(model)
    if len(found) > 1 or found[0].shared:
        raise RecipeError(
            f"freeze: the layers of a model of type {model.config.model_type} aren't one after "
            "the other, each for itself: leave it out."
        )
    if num_layers > found[0].depth:
        raise RecipeError(f"freeze is {num_layers}, and the model has {found[0].depth} layers.")
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    prefix = f"{found[0].path}."
    # Embeddings come before the layers, heads and what the layers share after them.
    names = list(before)
    first = next(place for place, name in enumerate(names) if name.startswith(prefix))
    still = set(names[:first]) | {
        name
        for name in names
        if name.startswith(prefix) and int(name.removeprefix(prefix).split(".")[0]) < num_layers
    }
    parameters = dict(model.named_parameters())
    for name in still:
        parameters[name].requires_grad_(False)
    try:
        yield
    finally:
        # Not by object: the embedding table may have been another one within the block.
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
