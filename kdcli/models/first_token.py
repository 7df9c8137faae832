"""Heads that read the first token alone: what the last layer needn't compute for the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdcli.errors import ModelError
from kdcli.models.layers import stacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The norm between a layer's attention and its feed-forward part, as BERT, MPNet and DistilBERT and
# their kin call it. What follows it looks at each token by itself.
_NORMS = ("attention.output.LayerNorm", "attention.LayerNorm", "sa_layer_norm")
_TOLERANCE = 1e-5


@contextmanager
def first_token_only(model: "PreTrainedModel") -> Iterator[bool]:
    """Within the block the last layer's feed-forward part computes the first token alone.

    A head that reads no other token gives the same logits, and two thirds of the last layer's work
    are saved: of three layers' work a fifth. Whether the head is such a one is tried out on a
    batch; where it isn't, the model stays as it is. Hidden states asked of the model within the
    block would be short.

    Args:
        model: A classifier.

    Yields:
        Whether it computes less.
    """
    norm = _norm(model)
    if norm is None:
        yield False
        return
    whole = _logits(model)
    hook = norm.register_forward_hook(_first)
    try:
        if not torch.allclose(_logits(model), whole, rtol=_TOLERANCE, atol=_TOLERANCE):
            hook.remove()
        yield hook.id in norm._forward_hooks
    finally:
        hook.remove()


def _norm(model: "PreTrainedModel") -> nn.Module | None:
    """The last layer's norm before its feed-forward part; None where none is known by name."""
    if model.config.is_encoder_decoder:
        return None
    try:
        (stack,) = stacks(model)
    except ModelError:
        return None
    if stack.shared:
        return None
    last = dict(model.get_submodule(f"{stack.path}.{stack.depth - 1}").named_modules())
    return next((last[name] for name in _NORMS if name in last), None)


def _first(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output[:, :1]


def _logits(model: "PreTrainedModel") -> Tensor:
    """What the model makes of two texts, one of them padded."""
    training = model.training
    tokens = torch.arange(8).remainder(len(model.get_input_embeddings().weight))
    mask = torch.ones(2, len(tokens), dtype=torch.int64)
    mask[1, 5:] = 0
    with torch.no_grad():
        logits: Tensor = model.eval()(
            input_ids=torch.stack([tokens, tokens.flip(0)]).to(model.device),
            attention_mask=mask.to(model.device),
        ).logits
    model.train(training)
    return logits
