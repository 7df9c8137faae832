"""The stacks of numbered layers of a model."""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from kdcli.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LayerIndices: TypeAlias = tuple[int, ...]  # in rising order, counted from 0

LAYER_PARAMETER_PATTERN = re.compile(r"(?P<stack>.*?)\.(?P<layer>\d+)(?P<rest>\..*)")
# Configuration keys for the number of layers of an encoder-decoder.
_NUM_LAYERS_KEYS = {
    "encoder": ("encoder_layers", "num_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
# Layers of other modalities.
_NON_TEXT_MODULES = re.compile("vision|audio")
# Architectures that share weights among layers: the configuration key for the number of layers
# that have their own weights.
_NUM_SHARED_LAYERS_KEY = {"albert": "num_hidden_groups"}


@dataclass(frozen=True)
class LayerStack:
    """A sequence of layers of the same kind.

    Attributes:
        path: Name of the module list in the model, such as `bert.encoder.layer`.
        part: `encoder` or `decoder` where the model has both, otherwise empty.
        config_key: Configuration key for the number of layers.
        depth: Number of layers that a text passes through.
        shared: Whether all layers share their weights, as in ALBERT.
    """

    path: str
    part: str
    config_key: str
    depth: int
    shared: bool = False


def find_layer_stacks(model: "PreTrainedModel") -> tuple[LayerStack, ...]:
    """Find the layer stacks of a model by the numbers in its parameter names.

    Args:
        model: A classifier; may be on the meta device.

    Returns:
        One stack; for an encoder-decoder the encoder's and the decoder's.

    Raises:
        ModelError: The parameter names and the configuration disagree about the layers.
    """
    config = get_text_config(model.config)
    counted: dict[str, set[int]] = defaultdict(set)
    for match in filter(None, map(LAYER_PARAMETER_PATTERN.match, model.state_dict())):
        counted[match["stack"]].add(int(match["layer"]))
    parts = _NUM_LAYERS_KEYS if config.is_encoder_decoder else {"": ("num_hidden_layers",)}
    return tuple(_find_layer_stack(config, part, keys, counted) for part, keys in parts.items())


def get_text_config(config: Any) -> Any:
    """Get the configuration of the text model; for most models the configuration itself."""
    try:
        return config.get_text_config()
    except ValueError:
        return config


def passes_per_layer(config: Any) -> int:
    """Count how often a token passes through each layer: once, except in ALBERT."""
    text = get_text_config(config)
    groups = getattr(text, _NUM_SHARED_LAYERS_KEY.get(text.model_type, ""), None)
    return text.num_hidden_layers // groups if groups else 1


def _find_layer_stack(
    config: Any, part: str, keys: tuple[str, ...], counted: dict[str, set[int]]
) -> LayerStack:
    key = next((key for key in keys if isinstance(getattr(config, key, None), int)), None)
    if key is None:
        raise _unsupported_layers_error(
            config, "its configuration doesn't say how many " + f"{part} layers it has".lstrip()
        )
    depth = getattr(config, key)
    try:
        setattr(config, key, depth)
    except NotImplementedError:
        raise _unsupported_layers_error(
            config, "the number of its layers follows from other settings"
        ) from None
    shared = config.model_type in _NUM_SHARED_LAYERS_KEY
    number = getattr(config, _NUM_SHARED_LAYERS_KEY[config.model_type]) if shared else depth
    if shared and number > 1:
        raise _unsupported_layers_error(config, f"its {depth} layers share the weights of {number}")
    paths = [
        path
        for path, numbers in counted.items()
        if numbers == set(range(number))
        and (not part or part in path.split("."))
        and not _NON_TEXT_MODULES.search(path)
    ]
    if len(paths) != 1:
        layers = f"{part} layers".strip()
        raise _unsupported_layers_error(
            config, f"its parameters' names number no single stack of {depth} {layers}"
        )
    return LayerStack(paths[0], part, key, depth, shared)


def _unsupported_layers_error(config: Any, reason: str) -> ModelError:
    return ModelError(
        f"Layers can't be left out of a model of type {config.model_type}: {reason}.",
        "Name a smaller pretrained model instead: student.model.",
    )
