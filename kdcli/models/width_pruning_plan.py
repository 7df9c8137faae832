"""Plan the pruning of a model's width: which attention heads and feed-forward neurons to keep.

Each unit is a slice of the input of an output projection, which leads back into the residual
stream.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdcli.errors import ModelError
from kdcli.models import tensor_slicing
from kdcli.models.layer_stacks import get_text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Configuration keys for the size of a head, the number of key-value heads, and of neurons.
_HEAD_DIM_KEYS = ("head_dim", "d_kv", "d_head", "attention_head_size")
_NUM_KV_HEADS_KEYS = ("num_key_value_heads", "num_kv_heads")
_FFN_SIZE_KEYS = (
    "intermediate_size", "hidden_dim", "d_ff", "d_inner", "n_inner", "ffn_dim", "ffn_hidden_size",
    "encoder_ffn_dim", "decoder_ffn_dim",
)  # fmt: skip
# Layouts of a parameter's dimension by units (u) and groups (g): queries, keys and values in one
# matrix are ugg, the two halves of a gated feed-forward layer gg.
_UNIT_LAYOUTS = ("u", "g", "ugg", "gg")


@dataclass(frozen=True)
class PrunableUnits:
    """The heads or the neurons of each layer, and how many of them to keep.

    Attributes:
        recipe_key: Key of `student` in the recipe that holds the number to keep.
        num_units: Number of units in a layer.
        num_kept: Number of units to keep in a layer.
        num_groups: Number of groups of equal size that share parameters, such as keys and values.
            A unit that shares nothing is its own group.
        unit_width: Size of a unit in the input of the output projection.
        config_values: Values of the smaller configuration, by attribute.
        resized_parameters: The parameters that get smaller.
        output_projections: Names of the modules that read the units' outputs.
    """

    recipe_key: str
    num_units: int
    num_kept: int
    num_groups: int
    unit_width: int
    config_values: Mapping[str, int]
    resized_parameters: Mapping[str, tensor_slicing.ResizedDimension]
    output_projections: tuple[str, ...]

    @property
    def num_groups_kept(self) -> int:
        """Number of groups to keep in a layer."""
        return _count_kept_groups(self.num_units, self.num_kept, self.num_groups)

    def select_units(self, importance: Tensor) -> tuple[Tensor, Tensor]:
        """Select the most important units, and the groups that they belong to.

        Whole groups are dropped if the numbers allow it, otherwise the same number of units from
        each group.

        Args:
            importance: (units,).

        Returns:
            Indices of the kept units and of the kept groups, in rising order.
        """
        by_group = importance.view(self.num_groups, -1)
        first = torch.arange(self.num_units).view_as(by_group)
        if self.num_groups_kept < self.num_groups:
            groups = _top_indices(by_group.sum(1), self.num_groups_kept)
            return first[groups].flatten(), groups
        best = _top_indices(by_group, self.num_kept // self.num_groups)
        return first.gather(1, best).flatten(), torch.arange(self.num_groups)

    def kept_indices(
        self, dimension: tensor_slicing.ResizedDimension, units: Tensor, groups: Tensor
    ) -> Tensor:
        """Compute the indices of the kept units and groups in a parameter's dimension.

        Raises:
            ModelError: The layout of the dimension is unknown.
        """
        sizes = {"u": (self.num_units, self.num_kept), "g": (self.num_groups, self.num_groups_kept)}
        for layout, width in product(_UNIT_LAYOUTS, (self.unit_width, 1)):
            before, after = (sum(sizes[part][i] for part in layout) * width for i in (0, 1))
            if (before, after) == (dimension.old_size, dimension.new_size):
                break
        else:
            raise ModelError(
                f"student.{self.recipe_key}: unknown layout of a dimension of {dimension.old_size}."
            )
        indices, start = [], 0
        for part in layout:
            indices.append(start + (units if part == "u" else groups))
            start += sizes[part][0]
        return (torch.cat(indices)[:, None] * width + torch.arange(width)).flatten()


def plan_width_pruning(
    model: "PreTrainedModel", *, heads: int | None = None, ffn: int | None = None
) -> tuple[PrunableUnits, ...]:
    """Plan the pruning of every layer to a number of heads and feed-forward neurons.

    Args:
        model: A classifier; may be on the meta device.
        heads: Attention heads to keep in a layer.
        ffn: Feed-forward neurons to keep in a layer.

    Returns:
        The units to prune; none for a number that the model has already.

    Raises:
        ModelError: The model has fewer, or its configuration can't express the number.
    """
    plans = [
        _plan_heads(model, heads) if heads is not None else None,
        _plan_ffn_neurons(model, ffn) if ffn is not None else None,
    ]
    return tuple(units for units in plans if units is not None)


def build_narrowed_config(
    config: "PretrainedConfig", units: Iterable[PrunableUnits]
) -> "PretrainedConfig":
    """Build the configuration of the pruned model."""
    return tensor_slicing.copy_config_with(
        config, {name: v for u in units for name, v in u.config_values.items()}
    )


def get_model_widths(config: "PretrainedConfig") -> dict[str, int]:
    """Get a model's `hidden`, `heads`, `ffn` and `pieces` (vocabulary), where configured."""
    text = get_text_config(config)
    keys = {
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "ffn": _first_int_key(text, _FFN_SIZE_KEYS),
        "pieces": "vocab_size",
    }
    widths = {name: getattr(text, key or "", None) for name, key in keys.items()}
    return {name: number for name, number in widths.items() if isinstance(number, int)}


def build_scratch_config(
    config: "PretrainedConfig", hidden: int, *, heads: int | None = None, ffn: int | None = None
) -> "PretrainedConfig":
    """Build the configuration of a narrower model of the same family, to train from scratch.

    Heads keep their size. Without `heads` or `ffn`, their numbers shrink in proportion to the
    hidden size.

    Raises:
        ModelError: `hidden` is larger than the model's, or the architecture can't be built so.
    """
    text = get_text_config(config)
    if hidden > text.hidden_size:
        raise ModelError(
            f"student.hidden_size is {hidden}, and the teacher's hidden states are "
            f"{text.hidden_size} "
            "wide."
        )
    before, groups, width = _attention_geometry(text)
    share, size = hidden / text.hidden_size, before // groups
    head_dim_key, kv_heads_key = (
        _first_int_key(text, keys) for keys in (_HEAD_DIM_KEYS, _NUM_KV_HEADS_KEYS)
    )
    if head_dim_key is None and heads is None and hidden % width:
        raise ModelError(
            f"student.hidden_size is {hidden}, no multiple of {width}, the size of a head of a "
            "model of "
            f"type {text.model_type}.",
            "Set the number of heads: student.num_attention_heads.",
        )
    count = heads or max(1, int(groups * share)) * size
    values = {"hidden_size": hidden, "num_attention_heads": count}
    values |= {head_dim_key: width} if head_dim_key else {}
    if kv_heads_key:
        values[kv_heads_key] = _count_kept_groups(before, count, groups)
    for key in _FFN_SIZE_KEYS:
        if isinstance(number := getattr(text, key, None), int):
            values[key] = ffn or round(number * share)
    smaller = tensor_slicing.copy_config_with(config, values)
    tensor_slicing.build_meta_model(smaller)
    return smaller


def _plan_heads(model: "PreTrainedModel", num_kept: int) -> PrunableUnits | None:
    config = get_text_config(model.config)
    before, groups, width = _attention_geometry(config)
    if num_kept > before:
        raise ModelError(
            f"student.num_attention_heads is {num_kept}, and the teacher's layers have {before} "
            "heads."
        )
    if num_kept == before:
        return None
    head_dim_key = _find_head_dim_key(model, width)
    if head_dim_key is None:
        raise ModelError(
            f"student.num_attention_heads: {num_kept} of {before} heads can't be saved, because "
            "a configuration "
            f"of type {config.model_type} has no key for the size of a head, which is hidden_size "
            "/ num_attention_heads.",
            "Prune feed-forward neurons or layers, or train from scratch: student.hidden_size.",
        )
    size = before // groups
    if num_kept % size and num_kept % groups:
        raise ModelError(
            f"student.num_attention_heads is {num_kept}, but {size} heads share keys and values: "
            "keep whole "
            f"groups (a multiple of {size}) or as many of each group (a multiple of {groups})."
        )
    values = {"num_attention_heads": num_kept, head_dim_key: width}
    if kv_heads_key := _first_int_key(config, _NUM_KV_HEADS_KEYS):
        values[kv_heads_key] = _count_kept_groups(before, num_kept, groups)
    resized = tensor_slicing.find_resized_parameters(
        model, tensor_slicing.copy_config_with(model.config, values)
    )
    return PrunableUnits(
        "num_attention_heads",
        before,
        num_kept,
        groups,
        width,
        values,
        resized,
        _find_output_projections(model, resized),
    )


def _plan_ffn_neurons(model: "PreTrainedModel", num_kept: int) -> PrunableUnits | None:
    config = get_text_config(model.config)
    values = {key: num_kept for key in _FFN_SIZE_KEYS if hasattr(config, key)}
    resized = tensor_slicing.find_resized_parameters(
        model, tensor_slicing.copy_config_with(model.config, values)
    )
    projections = _find_output_projections(model, resized)
    sizes = {resized[f"{name}.weight"].old_size for name in projections}
    if values and not resized and all(getattr(config, k) in (num_kept, None) for k in values):
        return None
    if len(sizes) != 1:
        raise ModelError(
            f"student.intermediate_size: a model of type {config.model_type} has no feed-forward "
            "layers of one "
            "width that its configuration names.",
            "Prune layers instead.",
        )
    (before,) = sizes
    if num_kept > before:
        raise ModelError(
            f"student.intermediate_size is {num_kept:,}, and the teacher's feed-forward layers "
            f"have {before:,} "
            "neurons."
        )
    return PrunableUnits(
        "intermediate_size", before, num_kept, before, 1, values, resized, projections
    )


def _attention_geometry(config: "PretrainedConfig") -> tuple[int, int, int]:
    """Get the number of heads, of key-value heads, and the size of a head."""
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        raise ModelError(
            f"The configuration of type {config.model_type} has no number of attention heads."
        )
    groups, width = (_first_int_key(config, keys) for keys in (_NUM_KV_HEADS_KEYS, _HEAD_DIM_KEYS))
    return (
        heads,
        getattr(config, groups) if groups else heads,
        getattr(config, width) if width else config.hidden_size // heads,
    )


def _find_head_dim_key(model: "PreTrainedModel", width: int) -> str | None:
    """Find the configuration key that sets the size of a head, apart from the hidden size."""
    config = get_text_config(model.config)
    for key in sorted(_HEAD_DIM_KEYS, key=lambda key: not hasattr(config, key)):
        try:
            resized = tensor_slicing.find_resized_parameters(
                model, tensor_slicing.copy_config_with(model.config, {key: 2 * width})
            )
        except ModelError:
            continue
        if _find_output_projections(model, resized):
            return key
    return None


def _first_int_key(config: "PretrainedConfig", keys: tuple[str, ...]) -> str | None:
    """Find the first key for which the configuration has a number."""
    return next((key for key in keys if isinstance(getattr(config, key, None), int)), None)


def _count_kept_groups(num_units: int, num_kept: int, num_groups: int) -> int:
    size = num_units // num_groups
    return num_groups if num_kept % size else num_kept // size


def _top_indices(values: Tensor, count: int) -> Tensor:
    """Find the indices of the `count` largest values in the last dimension, in rising order."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    return order[..., :count].sort(dim=-1).values


def _find_output_projections(
    model: "PreTrainedModel", resized_parameters: Mapping[str, tensor_slicing.ResizedDimension]
) -> tuple[str, ...]:
    from transformers.pytorch_utils import Conv1D

    input_dims = {nn.Linear: 1, Conv1D: 0}
    names = (
        name.removesuffix(".weight") for name in resized_parameters if name.endswith(".weight")
    )
    return tuple(
        name
        for name in names
        if input_dims.get(type(model.get_submodule(name)))
        == resized_parameters[f"{name}.weight"].dim
    )
