"""Run a model without some of its layers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kdcli.models.layer_stacks import LayerStack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def skip_layers(
    model: "PreTrainedModel", stack: LayerStack, layers: Sequence[int]
) -> Iterator[None]:
    """Make some layers of a stack return their input hidden states, within the block.

    The layers run all the same, because later ones may need their other outputs.
    """
    calls = count()

    def pass_through(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if next(calls) % stack.depth not in layers:
            return output
        hidden_states = args[0] if args else kwargs["hidden_states"]
        return hidden_states if isinstance(output, Tensor) else (hidden_states, *output[1:])

    hooks = [
        layer.register_forward_hook(pass_through, with_kwargs=True)
        for layer in model.get_submodule(stack.path)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def logits_or_last_hidden(
    model: "PreTrainedModel", batch: Mapping[str, Tensor], use_logits: bool
) -> Tensor:
    """Run a classifier in evaluation mode on a batch.

    Returns:
        The logits, (batch, classes), or the last hidden states, (batch, tokens, hidden size); of
        an encoder-decoder those of the decoder.
    """
    model.eval()
    hidden_states: list[Tensor] = []
    hook = model.base_model.register_forward_hook(
        lambda _, args, output: hidden_states.append(output[0])
    )
    with hook:
        logits = model(**batch).logits
    return logits if use_logits else hidden_states[-1]
