"""A student made of some of its teacher's layers, and the proof that it is.

It works on parameter names, not on classes: the numbered part of a name, as in
`encoder.layer.7.output`, says which layer a tensor belongs to, whatever the architecture.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcli.errors import ModelError
from kdcli.models import ablation, distilbert, layers
from kdcli.models.layers import NUMBERED, Layers, Stack

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# Lists of one entry a layer whose name doesn't say so.
_BY_LAYER = {"attention_window"}


def cut(teacher: "PreTrainedModel", keep: Sequence[Layers], architecture: str) -> "PreTrainedModel":
    """A smaller classifier of the teacher's layers `keep`, proved to be one.

    Args:
        teacher: A sequence classifier.
        keep: Of each of its stacks (see `layers.stacks`) the layers to keep.
        architecture: `same`, `distilbert`, or `auto`: distilbert for BERT, the same for any other.

    Returns:
        The student, in evaluation mode; its tensors are copies.

    Raises:
        ModelError: The architecture has no numbered layers, or can't become DistilBERT, or its
            layers can't change places.
    """
    stacks = layers.stacks(teacher)
    tensors: Mapping[str, Tensor] = teacher.state_dict()
    for stack, kept in zip(stacks, keep, strict=True):
        tensors = keep_layers(tensors, stack, kept)
    config = smaller(teacher, keep, architecture)
    if form(teacher.config, architecture) == "distilbert":
        tensors = distilbert.tensors_from(tensors)
    from transformers import AutoModelForSequenceClassification

    student = AutoModelForSequenceClassification.from_config(config).eval()
    try:
        student.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise _no_model(
            teacher, keep, "its layers have other parameters in other places"
        ) from error
    try:
        difference = ablation.difference(teacher, student, stacks, keep)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise ModelError(
            f"A model of type {config.model_type} can't be cut: it can't read a text ({reason})."
        ) from error
    if difference is not None:
        raise _no_model(teacher, keep, difference)
    return student


def _no_model(teacher: "PreTrainedModel", keep: Sequence[Layers], reason: str) -> ModelError:
    which = " and ".join(", ".join(map(str, kept)) for kept in keep)
    way_out = "name a smaller pretrained model: student.model."
    return ModelError(
        f"Layers {which} of a model of type {teacher.config.model_type} make no model: {reason}.",
        way_out.capitalize()
        if all(kept[0] == 0 for kept in keep)
        else f"Keep layer 0, or {way_out}",
    )


def form(config: Any, architecture: str) -> str:
    """What `architecture` comes to for a model of this configuration: same or distilbert."""
    if architecture != "auto":
        return architecture
    return "distilbert" if distilbert.obstacle(config) is None else "same"


def smaller(teacher: "PreTrainedModel", keep: Sequence[Layers], architecture: str) -> Any:
    """The configuration of the student that `cut` makes.

    Args:
        teacher: Its weights aren't looked at, and needn't be there.
        keep: As `cut` takes it.
        architecture: As `cut` takes it.

    Raises:
        ModelError: The architecture can't become DistilBERT.
    """
    if form(teacher.config, architecture) == "distilbert":
        return distilbert.config_from(teacher.config, len(keep[0]))
    config = copy.deepcopy(teacher.config)
    text = layers.text_config(config)
    for stack, kept in zip(layers.stacks(teacher), keep, strict=True):
        for name, value in text.to_dict().items():
            by_layer = ("layer" in name and not stack.part) or name in _BY_LAYER
            if by_layer and isinstance(value, list) and len(value) == stack.depth:
                setattr(text, name, [value[layer] for layer in kept])
        setattr(text, stack.key, len(kept))
    # As a file would give it back: what it derives of other settings is derived anew.
    return type(config).from_dict(config.to_dict())


def keep_layers(tensors: Mapping[str, "Tensor"], stack: Stack, keep: Layers) -> dict[str, "Tensor"]:
    """The tensors of a stack's layers `keep`, renumbered from 0, and those of no layer.

    What only the first layer has, such as T5's position biases, the student's first layer gets.
    """
    kept: dict[str, Tensor] = {}
    by_layer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = NUMBERED.match(name)
        if match is None or match["stack"] != stack.path or stack.shared:
            kept[name] = tensor
        else:
            by_layer.setdefault(int(match["layer"]), {})[match["rest"]] = tensor
    everywhere = {rest for layer in range(1, stack.depth) for rest in by_layer.get(layer, ())}
    for place, layer in enumerate(() if stack.shared else keep):
        own = by_layer[layer]
        if place == 0 and stack.depth > 1:
            own = own | {r: t for r, t in by_layer[0].items() if r not in everywhere}
        kept |= {f"{stack.path}.{place}{rest}": tensor for rest, tensor in own.items()}
    return kept
