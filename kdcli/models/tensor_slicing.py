"""A smaller model of a family, its tensors slices of a larger one's.

The smaller configuration alone says what is cut: built without weights beside the larger model,
it shows which parameters get another shape, and in which dimension. So it is whatever plain
transformers builds from that configuration, and loads.
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
    """One dimension of a parameter that gets another size."""

    dim: int
    old_size: int
    new_size: int


def copy_config_with(config: "PretrainedConfig", values: Mapping[str, Any]) -> "PretrainedConfig":
    """A copy of a configuration with other values, as a file would give it back.

    Args:
        config: Of a text model, or of one that has a text model as its part.
        values: By attribute of the text model's configuration.

    Raises:
        ModelError: The architecture's own checks refuse them.
    """
    config = copy.deepcopy(config)
    try:
        for name, value in values.items():
            setattr(get_text_config(config), name, value)
        return type(config).from_dict(config.to_dict())
    except Exception as error:
        raise _invalid_config_error(config, error) from error


def build_meta_model(config: "PretrainedConfig") -> "PreTrainedModel":
    """The classifier that a configuration describes, without weights.

    Raises:
        ModelError: It can't be built.
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
    """The parameters of `model` whose shape `smaller_config` has otherwise, by name.

    Raises:
        ModelError: The architecture can't be built so, or a parameter comes, goes, or changes in
            more than one dimension.
    """
    before, after = model.state_dict(), build_meta_model(smaller_config).state_dict()
    found = {}
    for name in before.keys() | after.keys():
        if name not in before or name not in after:
            raise _invalid_config_error(smaller_config, f"{name} is in one of the two only")
        sizes = zip(before[name].shape, after[name].shape, strict=True)
        other = [
            ResizedDimension(dim, *size) for dim, size in enumerate(sizes) if size[0] != size[1]
        ]
        if len(other) > 1:
            raise _invalid_config_error(
                smaller_config, f"{name} changes in more than one dimension"
            )
        if other:
            found[name] = other[0]
    return {name: found[name] for name in before if name in found}


def build_sliced_model(
    model: "PreTrainedModel",
    smaller_config: "PretrainedConfig",
    kept_indices: Mapping[str, tuple[int, torch.Tensor]],
) -> "PreTrainedModel":
    """The model that `smaller_config` describes, made of another one's tensors.

    Args:
        model: The larger one.
        smaller_config: Of the smaller one.
        kept_indices: By parameter, the dimension that is cut and the places to keep of it, in order.

    Returns:
        The smaller model, in evaluation mode; its tensors are copies.

    Raises:
        ModelError: The slices aren't what the configuration describes.
    """
    from transformers import AutoModelForSequenceClassification

    tensors = model.state_dict()
    for name, (dim, places) in kept_indices.items():
        tensors[name] = tensors[name].index_select(dim, places.to(tensors[name].device))
    smaller = AutoModelForSequenceClassification.from_config(smaller_config)
    try:
        smaller.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"A {smaller_config.model_type} can't be cut so: what is left of its parameters isn't what "
            "its configuration describes."
        ) from error
    return smaller.eval()


def _invalid_config_error(config: "PretrainedConfig", reason: Exception | str) -> ModelError:
    # A configuration's checks wrap the reason, and end in it.
    last = str(reason).strip().splitlines()[-1:] or [type(reason).__name__]
    text = last[0].strip().removeprefix("ValueError: ").rstrip(".")
    return ModelError(f"A model of type {config.model_type} can't be built so: {text}.")
