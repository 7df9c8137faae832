"""Build a smaller model whose tensors are slices of a larger one's.

The smaller configuration determines what is sliced. Building it on the meta device shows which
parameters change their shape, and in which dimension. So the result is the model that plain
transformers builds from that configuration.
"""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from kdcli.errors import ModelError
from kdcli.models.layer_stacks import get_text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class ResizedDimension(NamedTuple):
    """The dimension in which a parameter changes its size."""

    dim: int
    old_size: int
    new_size: int


def copy_config_with(config: "PretrainedConfig", values: Mapping[str, Any]) -> "PretrainedConfig":
    """Copy a configuration with other values, as if it were saved and loaded.

    Args:
        config: Configuration of a text model, or of a model with a text model inside.
        values: Values by attribute of the text model's configuration.

    Raises:
        ModelError: The architecture refuses the values.
    """
    config = copy.deepcopy(config)
    try:
        for name, value in values.items():
            setattr(get_text_config(config), name, value)
        return type(config).from_dict(config.to_dict())
    except Exception as error:
        raise _invalid_config_error(config, error) from error


def build_meta_model(config: "PretrainedConfig") -> "PreTrainedModel":
    """Build the classifier of a configuration on the meta device, without weights.

    Raises:
        ModelError: transformers can't build it.
    """
    from transformers import AutoModelForSequenceClassification

    try:
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config)
    except Exception as error:
        raise _invalid_config_error(config, error) from error


def find_resized_parameters(
    model: "PreTrainedModel", smaller_config: "PretrainedConfig"
) -> dict[str, ResizedDimension]:
    """Find the parameters of `model` that have another shape under `smaller_config`.

    Returns:
        The resized dimension by parameter name, in the order of the model's state dict.

    Raises:
        ModelError: transformers can't build the model, a parameter is in one of the models only,
            or it changes in more than one dimension.
    """
    before, after = model.state_dict(), build_meta_model(smaller_config).state_dict()
    resized = {}
    for name in before.keys() | after.keys():
        if name not in before or name not in after:
            raise _invalid_config_error(smaller_config, f"{name} is in one of the two models only")
        sizes = zip(before[name].shape, after[name].shape, strict=True)
        dimensions = [
            ResizedDimension(dim, *size) for dim, size in enumerate(sizes) if size[0] != size[1]
        ]
        if len(dimensions) > 1:
            raise _invalid_config_error(
                smaller_config, f"{name} changes in more than one dimension"
            )
        if dimensions:
            resized[name] = dimensions[0]
    return {name: resized[name] for name in before if name in resized}


def build_sliced_model(
    model: "PreTrainedModel",
    smaller_config: "PretrainedConfig",
    kept_indices: Mapping[str, tuple[int, torch.Tensor]],
) -> "PreTrainedModel":
    """Build the model of `smaller_config` from slices of another model's tensors.

    Args:
        model: The larger model.
        smaller_config: Configuration of the smaller model.
        kept_indices: By parameter, the sliced dimension and the indices to keep, in order.

    Returns:
        The smaller model, in evaluation mode; its tensors are copies.

    Raises:
        ModelError: The slices don't fit the configuration.
    """
    from transformers import AutoModelForSequenceClassification

    tensors = model.state_dict()
    for name, (dim, indices) in kept_indices.items():
        tensors[name] = tensors[name].index_select(dim, indices.to(tensors[name].device))
    smaller = AutoModelForSequenceClassification.from_config(smaller_config)
    try:
        smaller.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"A model of type {smaller_config.model_type} can't be pruned so: its remaining "
            "parameters don't fit its configuration."
        ) from error
    return smaller.eval()


def _invalid_config_error(config: "PretrainedConfig", reason: Exception | str) -> ModelError:
    # transformers' checks of a configuration wrap the reason; their last line states it.
    last = str(reason).strip().splitlines()[-1:] or [type(reason).__name__]
    text = last[0].strip().removeprefix("ValueError: ").rstrip(".")
    return ModelError(f"A model of type {config.model_type} can't be built so: {text}.")
