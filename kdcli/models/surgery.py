"""A student made of some of its teacher's layers.

It works on parameter names, not on classes: the numbered part of a name, as in
`encoder.layer.7.output`, says which layer a tensor belongs to, whatever the architecture.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdcli.errors import ModelError
from kdcli.models import distilbert

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_NUMBERED = re.compile(r"(?P<stack>.*?\.)(?P<layer>\d+)(?P<rest>\..*)")


def cut(teacher: "PreTrainedModel", keep: Sequence[int], architecture: str) -> "PreTrainedModel":
    """A smaller classifier of the teacher's layers `keep`.

    Args:
        teacher: A sequence classifier.
        keep: Layers, counted from 0, in rising order.
        architecture: `same`, `distilbert`, or `auto`: distilbert for BERT, the same for any other.

    Returns:
        The student, in evaluation mode; its tensors are copies.

    Raises:
        ModelError: The architecture has no numbered layers, or can't become DistilBERT, or its
            layers can't change places.
    """
    tensors = keep_layers(teacher.state_dict(), keep, depth(teacher.config))
    if form(teacher.config, architecture) == "distilbert":
        config = distilbert.config_from(teacher.config, len(keep))
        tensors = distilbert.tensors_from(tensors)
    else:
        config = shallower(teacher.config, keep)
    from transformers import AutoModelForSequenceClassification

    student = AutoModelForSequenceClassification.from_config(config)
    try:
        student.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"Layers {', '.join(map(str, keep))} of a {config.model_type} make no model: "
            "its layers have other parameters in other places.",
            "Keep layer 0, or name a smaller pretrained model: student.model.",
        ) from error
    return student.eval()


def form(config: Any, architecture: str) -> str:
    """What `architecture` comes to for a model of this configuration: same or distilbert."""
    if architecture != "auto":
        return architecture
    return "distilbert" if distilbert.obstacle(config) is None else "same"


def depth(config: Any) -> int:
    """How many layers a model of this configuration has.

    Raises:
        ModelError: It doesn't say.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        raise ModelError(f"A model of type {config.model_type} doesn't say how many layers it has.")
    return layers


def keep_layers(
    tensors: Mapping[str, "Tensor"], keep: Sequence[int], layers: int
) -> dict[str, "Tensor"]:
    """The tensors of the layers `keep`, renumbered from 0, and those of no layer.

    Raises:
        ModelError: No part of the names counts `layers` layers.
    """
    stack = _stack(tensors, layers)
    place = {layer: i for i, layer in enumerate(keep)}
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _NUMBERED.match(name)
        if match is None or match["stack"] != stack:
            kept[name] = tensor
        elif int(match["layer"]) in place:
            kept[f"{stack}{place[int(match['layer'])]}{match['rest']}"] = tensor
    return kept


def _stack(names: Iterable[str], layers: int) -> str:
    counts: dict[str, set[int]] = defaultdict(set)
    for match in filter(None, map(_NUMBERED.match, names)):
        counts[match["stack"]].add(int(match["layer"]))
    stacks = [stack for stack, found in counts.items() if found == set(range(layers))]
    if len(stacks) != 1:
        raise ModelError(
            f"The model's parameter names number no single stack of {layers} layers.",
            "Name a smaller pretrained model instead: student.model.",
        )
    return stacks[0]


def shallower(config: Any, keep: Sequence[int]) -> Any:
    """The configuration of a model of the layers `keep` alone."""
    config = copy.deepcopy(config)
    for name, value in config.to_dict().items():
        # Such as layer_types: one entry for each layer.
        if isinstance(value, list) and len(value) == config.num_hidden_layers and "layer" in name:
            setattr(config, name, [value[layer] for layer in keep])
    config.num_hidden_layers = len(keep)
    return config
