"""Build a student from some of its teacher's layers, and check it.

The code works on parameter names, not on classes: the number in a name such as
`encoder.layer.7.output` tells the layer of a tensor in any architecture.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcli.errors import ModelError
from kdcli.models import bert_to_distilbert, layer_stacks, pruned_output_check
from kdcli.models.layer_stacks import LAYER_PARAMETER_PATTERN, LayerIndices, LayerStack

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# Lists with one entry per layer whose key doesn't contain "layer".
_PER_LAYER_KEYS = {"attention_window"}


def prune_layers(
    teacher: "PreTrainedModel", kept_layers: Sequence[LayerIndices], architecture: str
) -> "PreTrainedModel":
    """Build a classifier from the teacher's layers `kept_layers`.

    The student is checked against the teacher with the other layers skipped.

    Args:
        teacher: A sequence classifier.
        kept_layers: The layers to keep of each stack (see `layer_stacks.find_layer_stacks`).
        architecture: `same`, `distilbert`, or `auto`: distilbert for BERT, otherwise same.

    Returns:
        The student, in evaluation mode; its tensors are copies.

    Raises:
        ModelError: The architecture has no numbered layers, can't become a DistilBERT, or its
            layers depend on their position.
    """
    stacks = layer_stacks.find_layer_stacks(teacher)
    tensors: Mapping[str, Tensor] = teacher.state_dict()
    for stack, kept in zip(stacks, kept_layers, strict=True):
        tensors = select_layer_tensors(tensors, stack, kept)
    config = build_pruned_config(teacher, kept_layers, architecture)
    if resolve_architecture(teacher.config, architecture) == "distilbert":
        tensors = bert_to_distilbert.convert_state_dict(tensors)
    from transformers import AutoModelForSequenceClassification

    student = AutoModelForSequenceClassification.from_config(config).eval()
    try:
        student.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise _invalid_layers_error(
            teacher, kept_layers, "its layers have different parameters"
        ) from error
    try:
        difference = pruned_output_check.find_pruning_mismatch(
            teacher, student, stacks, kept_layers
        )
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise ModelError(
            f"A model of type {config.model_type} can't be cut: it can't read a text ({reason})."
        ) from error
    if difference is not None:
        raise _invalid_layers_error(teacher, kept_layers, difference)
    return student


def _invalid_layers_error(
    teacher: "PreTrainedModel", kept_layers: Sequence[LayerIndices], reason: str
) -> ModelError:
    which = " and ".join(", ".join(map(str, kept)) for kept in kept_layers)
    way_out = "name a smaller pretrained model: student.model."
    return ModelError(
        f"Layers {which} of a model of type {teacher.config.model_type} make no model: {reason}.",
        way_out.capitalize()
        if all(kept[0] == 0 for kept in kept_layers)
        else f"Keep layer 0, or {way_out}",
    )


def resolve_architecture(config: Any, architecture: str) -> str:
    """Resolve `auto` for a model of this configuration to `same` or `distilbert`."""
    if architecture != "auto":
        return architecture
    return "distilbert" if bert_to_distilbert.incompatibility_reason(config) is None else "same"


def build_pruned_config(
    teacher: "PreTrainedModel", kept_layers: Sequence[LayerIndices], architecture: str
) -> Any:
    """Build the configuration of the student that `prune_layers` returns.

    Args:
        teacher: A sequence classifier; may be on the meta device.
        kept_layers: See `prune_layers`.
        architecture: See `prune_layers`.

    Raises:
        ModelError: The architecture can't become a DistilBERT.
    """
    if resolve_architecture(teacher.config, architecture) == "distilbert":
        return bert_to_distilbert.convert_config(teacher.config, len(kept_layers[0]))
    config = copy.deepcopy(teacher.config)
    text = layer_stacks.get_text_config(config)
    for stack, kept in zip(layer_stacks.find_layer_stacks(teacher), kept_layers, strict=True):
        for name, value in text.to_dict().items():
            by_layer = ("layer" in name and not stack.part) or name in _PER_LAYER_KEYS
            if by_layer and isinstance(value, list) and len(value) == stack.depth:
                setattr(text, name, [value[layer] for layer in kept])
        setattr(text, stack.config_key, len(kept))
    # A round trip recomputes the values that the configuration derives from others.
    return type(config).from_dict(config.to_dict())


def select_layer_tensors(
    state_dict: Mapping[str, "Tensor"], stack: LayerStack, kept_layers: LayerIndices
) -> dict[str, "Tensor"]:
    """Select the tensors of a stack's layers `kept_layers`, renumbered, and those of no layer.

    Parameters that only the first layer has, such as T5's position biases, go to the student's
    first layer.
    """
    kept: dict[str, Tensor] = {}
    by_layer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state_dict.items():
        match = LAYER_PARAMETER_PATTERN.match(name)
        if match is None or match["stack"] != stack.path or stack.shared:
            kept[name] = tensor
        else:
            by_layer.setdefault(int(match["layer"]), {})[match["rest"]] = tensor
    in_other_layers = {rest for layer in range(1, stack.depth) for rest in by_layer.get(layer, ())}
    for position, layer in enumerate(() if stack.shared else kept_layers):
        layer_tensors = by_layer[layer]
        if position == 0 and stack.depth > 1:
            layer_tensors = layer_tensors | {
                r: t for r, t in by_layer[0].items() if r not in in_other_layers
            }
        kept |= {f"{stack.path}.{position}{rest}": tensor for rest, tensor in layer_tensors.items()}
    return kept
