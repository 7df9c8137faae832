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
from kdcli.models.layers import text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Cut(NamedTuple):
    """One dimension of a parameter that gets another size."""

    dim: int
    before: int
    after: int


def changed(config: "PretrainedConfig", values: Mapping[str, Any]) -> "PretrainedConfig":
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
            setattr(text_config(config), name, value)
        return type(config).from_dict(config.to_dict())
    except Exception as error:
        raise _refused(config, error) from error


def skeleton(config: "PretrainedConfig") -> "PreTrainedModel":
    """The classifier that a configuration describes, without weights.

    Raises:
        ModelError: It can't be built.
    """
    from transformers import AutoModelForSequenceClassification

    try:
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config)
    except Exception as error:
        raise _refused(config, error) from error


def cuts(model: "PreTrainedModel", config: "PretrainedConfig") -> dict[str, Cut]:
    """The parameters of `model` whose shape `config` has otherwise, by name.

    Raises:
        ModelError: The architecture can't be built so, or a parameter comes, goes, or changes in
            more than one dimension.
    """
    before, after = model.state_dict(), skeleton(config).state_dict()
    found = {}
    for name in before.keys() | after.keys():
        if name not in before or name not in after:
            raise _refused(config, f"{name} is in one of the two only")
        sizes = zip(before[name].shape, after[name].shape, strict=True)
        other = [Cut(dim, *size) for dim, size in enumerate(sizes) if size[0] != size[1]]
        if len(other) > 1:
            raise _refused(config, f"{name} changes in more than one dimension")
        if other:
            found[name] = other[0]
    return {name: found[name] for name in before if name in found}


def build(
    model: "PreTrainedModel",
    config: "PretrainedConfig",
    kept: Mapping[str, tuple[int, torch.Tensor]],
) -> "PreTrainedModel":
    """The model that `config` describes, made of another one's tensors.

    Args:
        model: The larger one.
        config: Of the smaller one.
        kept: By parameter, the dimension that is cut and the places to keep of it, in order.

    Returns:
        The smaller model, in evaluation mode; its tensors are copies.

    Raises:
        ModelError: The slices aren't what the configuration describes.
    """
    from transformers import AutoModelForSequenceClassification

    tensors = model.state_dict()
    for name, (dim, places) in kept.items():
        tensors[name] = tensors[name].index_select(dim, places.to(tensors[name].device))
    smaller = AutoModelForSequenceClassification.from_config(config)
    try:
        smaller.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"A {config.model_type} can't be cut so: what is left of its parameters isn't what "
            "its configuration describes."
        ) from error
    return smaller.eval()


def _refused(config: "PretrainedConfig", reason: Exception | str) -> ModelError:
    # A configuration's checks wrap the reason, and end in it.
    last = str(reason).strip().splitlines()[-1:] or [type(reason).__name__]
    text = last[0].strip().removeprefix("ValueError: ").rstrip(".")
    return ModelError(f"A model of type {config.model_type} can't be built so: {text}.")
