"""A student made of some of its teacher's layers, and the proof that it is.

It works on parameter names, not on classes: the numbered part of a name, as in
`encoder.layer.7.output`, says which layer a tensor belongs to, whatever the architecture.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcli.errors import ModelError
from kdcli.models import bert_to_distilbert, layer_stacks, pruning_check
from kdcli.models.layer_stacks import LAYER_PARAMETER_PATTERN, LayerIndices, LayerStack

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# Lists of one entry a layer whose name doesn't say so.
_PER_LAYER_KEYS = {"attention_window"}


def prune_layers(
    teacher: "PreTrainedModel", kept_layers: Sequence[LayerIndices], architecture: str
) -> "PreTrainedModel":
    """A smaller classifier of the teacher's layers `kept_layers`, proved to be one.

    Args:
        teacher: A sequence classifier.
        kept_layers: Of each of its stacks (see `layers.stacks`) the layers to keep.
        architecture: `same`, `distilbert`, or `auto`: distilbert for BERT, the same for any other.

    Returns:
        The student, in evaluation mode; its tensors are copies.

    Raises:
        ModelError: The architecture has no numbered layers, or can't become DistilBERT, or its
            layers can't change places.
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
            teacher, kept_layers, "its layers have other parameters in other places"
        ) from error
    try:
        difference = pruning_check.find_pruning_mismatch(teacher, student, stacks, kept_layers)
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
    """What `architecture` comes to for a model of this configuration: same or distilbert."""
    if architecture != "auto":
        return architecture
    return "distilbert" if bert_to_distilbert.incompatibility_reason(config) is None else "same"


def build_pruned_config(
    teacher: "PreTrainedModel", kept_layers: Sequence[LayerIndices], architecture: str
) -> Any:
    """The configuration of the student that `cut` makes.

    Args:
        teacher: Its weights aren't looked at, and needn't be there.
        kept_layers: As `cut` takes it.
        architecture: As `cut` takes it.

    Raises:
        ModelError: The architecture can't become DistilBERT.
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
    # As a file would give it back: what it derives of other settings is derived anew.
    return type(config).from_dict(config.to_dict())


def select_layer_tensors(
    state_dict: Mapping[str, "Tensor"], stack: LayerStack, kept_layers: LayerIndices
) -> dict[str, "Tensor"]:
    """The tensors of a stack's layers `kept_layers`, renumbered from 0, and those of no layer.

    What only the first layer has, such as T5's position biases, the student's first layer gets.
    """
    kept: dict[str, Tensor] = {}
    by_layer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state_dict.items():
        match = LAYER_PARAMETER_PATTERN.match(name)
        if match is None or match["stack"] != stack.path or stack.shared:
            kept[name] = tensor
        else:
            by_layer.setdefault(int(match["layer"]), {})[match["rest"]] = tensor
    everywhere = {rest for layer in range(1, stack.depth) for rest in by_layer.get(layer, ())}
    for place, layer in enumerate(() if stack.shared else kept_layers):
        own = by_layer[layer]
        if place == 0 and stack.depth > 1:
            own = own | {r: t for r, t in by_layer[0].items() if r not in everywhere}
        kept |= {f"{stack.path}.{place}{rest}": tensor for rest, tensor in own.items()}
    return kept
