"""Freezing of embeddings and first layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kdcli.errors import RecipeError
from kdcli.models.layer_stacks import find_layer_stacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def freeze_layers(model: "PreTrainedModel", num_layers: int | None) -> Iterator[None]:
    """Within the block the embeddings and the first layers aren't trained.

    Args:
        model: A classifier.
        num_layers: Number of layers to freeze; 0 freezes the embeddings alone, None nothing.

    Raises:
        RecipeError: The model has fewer layers, more than one stack of them, or shared ones.
    """
    if num_layers is None:
        yield
        return
    stacks = find_layer_stacks(model)
    if len(stacks) > 1 or stacks[0].shared:
        raise RecipeError(
            f"freeze_layers: a {model.config.model_type} has several stacks of layers, or shared "
            "layers.",
            "Leave freeze_layers out.",
        )
    if num_layers > stacks[0].depth:
        raise RecipeError(
            f"freeze_layers is {num_layers}, and the model has {stacks[0].depth} layers."
        )
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    prefix = f"{stacks[0].path}."
    # Embeddings come before the layers, heads and what the layers share after them.
    names = list(before)
    first = next(index for index, name in enumerate(names) if name.startswith(prefix))
    frozen = set(names[:first]) | {
        name
        for name in names
        if name.startswith(prefix) and int(name.removeprefix(prefix).split(".")[0]) < num_layers
    }
    parameters = dict(model.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    try:
        yield
    finally:
        # By name: the embedding table may have been another object within the block.
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
