"""What a model makes of a batch: its logits, and what lies within it where a loss asks for that."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdcli.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What the families call the modules that make queries, keys and values.
_PARTS = {
    "queries": {"query", "q_lin", "q_proj", "query_proj", "q"},
    "keys": {"key", "k_lin", "k_proj", "key_proj", "k"},
    "values": {"value", "v_lin", "v_proj", "value_proj", "v"},
}
_NUMBERED = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Told:
    """What a model makes of a batch.

    Attributes:
        logits: (batch, classes).
        mask: (batch, tokens), 1 where there is a token.
        hidden: The embeddings' output and each layer's, (batch, tokens, width).
        attentions: Each layer's, (batch, heads, tokens, tokens).
        relations: `queries`, `keys` and `values` of each layer, (batch, tokens, width).
    """

    logits: Tensor
    mask: Tensor | None = None
    hidden: Sequence[Tensor] | Mapping[int, Tensor] = ()
    attentions: Sequence[Tensor] = ()
    relations: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)


def tell(model: Any, inputs: Mapping[str, Tensor], needs: frozenset[str]) -> Told:
    """Run a model on a batch.

    Args:
        model: A classifier, perhaps in a wrapper that spreads it over devices.
        inputs: What its `forward` takes.
        needs: Which of `hidden`, `attentions` and `relations` to keep.
    """
    options = {
        option: True
        for need, option in (
            ("hidden", "output_hidden_states"),
            ("attentions", "output_attentions"),
        )
        if need in needs
    }
    with _listening(model, "relations" in needs) as heard:
        outputs = model(**inputs, **options)
    return Told(
        logits=outputs.logits,
        mask=inputs.get("attention_mask"),
        hidden=outputs.hidden_states if "hidden" in needs else (),
        attentions=outputs.attentions if "attentions" in needs else (),
        relations={part: [found[i] for i in sorted(found)] for part, found in heard.items()},
    )


def prepare(model: "PreTrainedModel", needs: frozenset[str]) -> None:
    """Make a model able to tell what is asked of it.

    Raises:
        ModelError: Its architecture keeps that to itself.
    """
    if "attentions" in needs:
        # The faster kernels never write the attention down.
        model.set_attn_implementation("eager")
    kind = model.config.model_type
    if model.config.is_encoder_decoder and needs - {"logits"}:
        raise ModelError(
            f"A {kind} has an encoder and a decoder: which of its states to compare isn't settled.",
            "Use losses of logits, such as soft_targets.",
        )
    if "relations" in needs and not all(_modules(model, part) for part in _PARTS):
        raise ModelError(
            f"A {kind} doesn't make its queries, keys and values apart.",
            "Use hidden_mse instead of relations.",
        )


def _modules(model: Any, part: str) -> dict[int, torch.nn.Module]:
    """The modules that make a part, by layer."""
    found = {}
    for name, module in model.named_modules():
        numbers = _NUMBERED.findall(name)
        if numbers and name.rpartition(".")[2] in _PARTS[part]:
            found[int(numbers[0])] = module
    return found


@contextmanager
def _listening(model: Any, wanted: bool) -> Iterator[dict[str, dict[int, Tensor]]]:
    """Within the block what the queries', keys' and values' modules give is kept."""
    heard: dict[str, dict[int, Tensor]] = {part: {} for part in _PARTS} if wanted else {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, part=part, layer=layer: heard[part].update({layer: output})
        )
        for part in heard
        for layer, module in _modules(model, part).items()
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
