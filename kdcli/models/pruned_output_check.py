"""Check that a pruned student computes what its teacher computes without the pruned layers."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdcli.models.forward_without_layers import logits_or_last_hidden, skip_layers
from kdcli.models.layer_stacks import LayerIndices, LayerStack, get_text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-5
_PROBE_LENGTHS = (9, 5)
# Attributes that hold a layer's position, or that only the first layer of a T5 has.
_POSITION_DEPENDENT_ATTRIBUTES = (
    "idx",
    "index",
    "layer_id",
    "number",
    "has_relative_attention_bias",
)


def find_pruning_mismatch(
    teacher: "PreTrainedModel",
    student: "PreTrainedModel",
    stacks: Sequence[LayerStack],
    kept_layers: Sequence[LayerIndices],
) -> str | None:
    """Compare a student with its teacher without the pruned layers.

    Both read the same padded batch. Their logits are compared, or, where the student has another
    architecture, their hidden states. Settings that a short text doesn't exercise, such as a
    layer's attention window, are compared one by one.

    Returns:
        The reason why they differ, as a clause; None where they agree.
    """
    batch = _random_padded_batch(get_text_config(teacher.config))
    same_class = type(teacher) is type(student)
    with torch.inference_mode(), ExitStack() as skipped:
        outputs = logits_or_last_hidden(student, batch, same_class)
        for stack, kept in zip(stacks, kept_layers, strict=True):
            pruned = sorted(set(range(stack.depth)) - set(kept))
            skipped.enter_context(skip_layers(teacher, stack, pruned))
        expected = logits_or_last_hidden(teacher, batch, same_class)
    compared = ... if same_class else batch["attention_mask"].bool()
    error = (outputs - expected)[compared].abs().max().item()
    if not error <= _TOLERANCE * (1 + expected.abs().max().item()):
        return f"what they compute depends on their position (the outputs are {error:.2g} off)"
    if not same_class:
        return None
    for stack, kept in zip(stacks, kept_layers, strict=True):
        before, after = (model.get_submodule(stack.path) for model in (teacher, student))
        for layer, student_layer in zip(() if stack.shared else kept, after, strict=False):
            old, new = _layer_attributes(before[layer]), _layer_attributes(student_layer)
            if differing := [name for name in old.keys() & new if old[name] != new[name]]:
                return f"{min(differing)} depends on a layer's position"
    return None


def _random_padded_batch(config: Any) -> dict[str, Tensor]:
    """Two texts of random tokens, the shorter one padded on the right."""
    special = {
        value
        for name, value in config.to_dict().items()
        if name.endswith("token_id") and isinstance(value, int)
    }
    ordinary = [i for i in range(config.vocab_size) if i not in special]
    random = torch.Generator().manual_seed(0)
    indices = torch.randint(
        len(ordinary), (len(_PROBE_LENGTHS), max(_PROBE_LENGTHS)), generator=random
    )
    ids, mask = torch.tensor(ordinary)[indices], torch.zeros_like(indices)
    for row, length in enumerate(_PROBE_LENGTHS):
        mask[row, :length] = 1
        ids[row, length:] = config.pad_token_id or 0
        # The head of an encoder-decoder reads the end-of-text token.
        if config.is_encoder_decoder and config.eos_token_id is not None:
            ids[row, length - 1] = config.eos_token_id
    return {"input_ids": ids, "attention_mask": mask}


def _layer_attributes(layer: nn.Module) -> dict[str, Any]:
    """The plain attributes of a layer's modules, by path, without those that hold its position."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
        and not (
            name.startswith("_") or any(part in name for part in _POSITION_DEPENDENT_ATTRIBUTES)
        )
    }
