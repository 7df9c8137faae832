"""A model's outputs for a batch: logits, and the hidden states and attentions that losses need."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kdcli.errors import ModelError
from kdcli.losses.base import LayerMapping, ModelOutputs, TeacherOutput
from kdcli.models import layer_selection, layer_stacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Names that architectures give to the modules that compute queries, keys and values.
_QKV_MODULE_NAMES = {
    "queries": {"query", "q_lin", "q_proj", "query_proj", "q"},
    "keys": {"key", "k_lin", "k_proj", "key_proj", "k"},
    "values": {"value", "v_lin", "v_proj", "value_proj", "v"},
}
_PROBABILITY_SUM_TOLERANCE = 0.01  # of a sum of probabilities, in bfloat16
_LAYER_NUMBER = re.compile(r"\.(\d+)\.")


def forward_with_hidden(
    model: Any, inputs: Mapping[str, Tensor], required_outputs: frozenset[TeacherOutput]
) -> ModelOutputs:
    """Run a model on a batch, and return its logits and the required inner outputs.

    Args:
        model: A classifier, perhaps in a wrapper that spreads it over devices.
        inputs: Arguments of its `forward`.
        required_outputs: The outputs to return besides the logits.

    Raises:
        ModelError: The model trains with attention dropout, and doesn't expose the probabilities
            before it.
    """
    options = {
        option: True
        for need, option in (
            ("hidden_states", "output_hidden_states"),
            ("attentions", "output_attentions"),
        )
        if need in required_outputs
    }
    undropped = _AttentionBeforeDropout()
    noting = undropped if "attentions" in required_outputs else nullcontext()
    with _record_qkv(model, "relations" in required_outputs) as outputs_by_part, noting:
        outputs = model(**inputs, **options)
    return ModelOutputs(
        logits=outputs.logits,
        attention_mask=inputs.get("attention_mask"),
        hidden_states=outputs.hidden_states if "hidden_states" in required_outputs else (),
        attentions=[*map(undropped.undropped_attention, outputs.attentions)]
        if "attentions" in required_outputs
        else (),
        qkv={part: [found[i] for i in sorted(found)] for part, found in outputs_by_part.items()},
    )


class _AttentionBeforeDropout(TorchFunctionMode):
    """Within the block, records the inputs of dropout.

    transformers returns attention after dropout: with a rate of 0.1, a tenth of the probabilities
    is 0, and their divergence from the teacher's is mostly noise.
    """

    def __init__(self) -> None:
        super().__init__()
        self._dropout_inputs: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is F.dropout:
            dropped = args[0] if args else (kwargs or {})["input"]
            if dropped.ndim == 4:
                # The output is kept as well: its id stays its own.
                self._dropout_inputs[id(output)] = dropped, output
        return output

    def undropped_attention(self, attention: Tensor) -> Tensor:
        """Return a layer's attention as it was before dropout."""
        if id(attention) in self._dropout_inputs:
            return self._dropout_inputs[id(attention)][0]
        if (attention.sum(-1) - 1).abs().max() > _PROBABILITY_SUM_TOLERANCE:
            raise ModelError(
                "distill.losses: attention_kl: the student doesn't expose its attention before "
                "dropout.",
                "Train without dropout (distill.dropout: 0), or use attention_relations or "
                "hidden_mse.",
            )
        return attention


def enable_model_outputs(
    model: "PreTrainedModel", required_outputs: frozenset[TeacherOutput]
) -> None:
    """Configure a model so that `forward_with_hidden` can return the outputs.

    Raises:
        ModelError: Its architecture doesn't expose them.
    """
    if "attentions" in required_outputs:
        # The faster kernels never write the attention down.
        model.set_attn_implementation("eager")
    kind = model.config.model_type
    if model.config.is_encoder_decoder and required_outputs - {"logits"}:
        raise ModelError(
            f"A {kind} has an encoder and a decoder, whose states kd can't compare.",
            "Use losses of logits, such as soft_targets.",
        )
    if "relations" in required_outputs and not all(
        _qkv_modules(model, part) for part in _QKV_MODULE_NAMES
    ):
        raise ModelError(
            f"A {kind} has no separate modules for queries, keys and values.",
            "Use hidden_mse instead of relations.",
        )


def map_layers(
    student: "PreTrainedModel", teacher: "PreTrainedModel", kept_layers: Sequence[int] = ()
) -> LayerMapping:
    """Pair the student's layers with the teacher's.

    Args:
        student: The student.
        teacher: The teacher.
        kept_layers: The teacher's layers that the student was cut from. Empty: evenly spread ones.
    """
    depths = [layer_stacks.find_layer_stacks(model)[0].depth for model in (student, teacher)]
    return LayerMapping(
        student_width=student.config.hidden_size,
        teacher_width=teacher.config.hidden_size,
        teacher_layer_indices=tuple(kept_layers) or layer_selection.uniform_layer_mapping(*depths),
        teacher_depth=depths[1],
    )


def _qkv_modules(model: Any, part: str) -> dict[int, torch.nn.Module]:
    """The modules that compute queries, keys or values, by layer."""
    modules = {}
    for name, module in model.named_modules():
        numbers = _LAYER_NUMBER.findall(name)
        if numbers and name.rpartition(".")[2] in _QKV_MODULE_NAMES[part]:
            modules[int(numbers[0])] = module
    return modules


@contextmanager
def _record_qkv(model: Any, enabled: bool) -> Iterator[dict[str, dict[int, Tensor]]]:
    """Within the block the outputs of the modules for queries, keys and values are recorded."""
    outputs_by_part: dict[str, dict[int, Tensor]] = (
        {part: {} for part in _QKV_MODULE_NAMES} if enabled else {}
    )
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, part=part, layer=layer: outputs_by_part[part].update(
                {layer: output}
            )
        )
        for part in outputs_by_part
        for layer, module in _qkv_modules(model, part).items()
    ]
    try:
        yield outputs_by_part
    finally:
        for hook in hooks:
            hook.remove()
