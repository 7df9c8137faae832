"""Choose the layers to keep by how much the model's outputs change without them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdcli.models.device import on_inference_device
from kdcli.models.forward_without_layers import logits_or_last_hidden, skip_layers
from kdcli.models.layer_stacks import LayerIndices, LayerStack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def select_layers_greedily(
    model: "PreTrainedModel",
    stack: LayerStack,
    num_to_keep: int,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    use_logits: bool,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> LayerIndices:
    """Drop layers one by one, each time the one whose absence changes the outputs least.

    This is the greedy selection of SLEB (Song et al. 2024, arXiv:2402.09025, algorithm 1).

    Args:
        model: A classifier.
        stack: A stack of its layers.
        num_to_keep: Number of layers to keep.
        batches: Inputs to measure on, without padding.
        use_logits: Compare logits. Where the head is untrained, pass False to compare the last
            hidden states.
        advance: Called after each trial with the trials done and their number.

    Returns:
        The kept layers, in rising order.
    """
    first, trials = _must_keep_first_layer(model, stack), 0
    total = sum(stack.depth - first - dropped for dropped in range(stack.depth - num_to_keep))
    with on_inference_device(model) as device, torch.inference_mode():
        batches = [{name: t.to(device) for name, t in batch.items()} for batch in batches]
        reference = [logits_or_last_hidden(model, batch, use_logits) for batch in batches]

        def change_without(layers: Sequence[int]) -> float:
            nonlocal trials
            with skip_layers(model, stack, layers):
                changes = [
                    _output_change(
                        logits_or_last_hidden(model, batch, use_logits), outputs, use_logits
                    )
                    for batch, outputs in zip(batches, reference, strict=True)
                ]
            trials += 1
            advance(trials, total)
            return sum(changes)

        dropped: list[int] = []
        while len(dropped) < stack.depth - num_to_keep:
            candidates = sorted(set(range(first, stack.depth)) - set(dropped))
            dropped.append(min(candidates, key=lambda layer: change_without([*dropped, layer])))
    return tuple(sorted(set(range(stack.depth)) - set(dropped)))


def _must_keep_first_layer(model: "PreTrainedModel", stack: LayerStack) -> bool:
    """Return whether the first layer lacks parameters of the others, as in ModernBERT."""
    if stack.depth == 1:
        return False
    first, second = (model.get_submodule(f"{stack.path}.{i}").state_dict().keys() for i in (0, 1))
    return bool(second - first)


def _output_change(outputs: Tensor, reference: Tensor, use_logits: bool) -> float:
    """Kullback-Leibler divergence of logits, or squared distance of hidden states."""
    if not use_logits:
        return float((outputs - reference).square().sum())
    outputs, reference = outputs.log_softmax(-1), reference.log_softmax(-1)
    return float(nn.functional.kl_div(outputs, reference, reduction="sum", log_target=True))
