"""What of a model can be made narrower: units, which are attention heads or feed-forward neurons.

Each unit has a slice of the input of a projection that leads back into the model, its site.
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

Batch = Mapping[str, Tensor]

# What configurations call the width of a head, the heads of keys and values, and the neurons.
_HEAD_DIM_KEYS = ("head_dim", "d_kv", "d_head", "attention_head_size")
_NUM_KV_HEADS_KEYS = ("num_key_value_heads", "num_kv_heads")
_FFN_SIZE_KEYS = (
    "intermediate_size", "hidden_dim", "d_ff", "d_inner", "n_inner", "ffn_dim", "ffn_hidden_size",
    "encoder_ffn_dim", "decoder_ffn_dim",
)  # fmt: skip
# How a parameter's dimension is made up of units (u) and groups (g): queries, keys and values
# in one matrix are ugg, the two halves of a gated feed-forward layer gg.
_UNIT_LAYOUTS = ("u", "g", "ugg", "gg")


@dataclass(frozen=True)
class PrunableUnits:
    """The heads, or the neurons, of a layer, and how many of them stay.

    Attributes:
        recipe_key: What a recipe calls the number that stays.
        num_units: How many a layer has.
        num_kept: How many stay.
        num_groups: Groups of equal size that share something, such as keys and values. A unit that
            shares nothing is its own group.
        unit_width: Places that one takes in the input of its site.
        config_values: What the smaller configuration says, by attribute.
        resized_parameters: The parameters that get smaller.
        output_projections: The modules whose input is the units', by name.
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
        """How many groups stay."""
        return _count_kept_groups(self.num_units, self.num_kept, self.num_groups)

    def select_units(self, importance: Tensor) -> tuple[Tensor, Tensor]:
        """The units to keep and their groups, in order, by what each unit is worth.

        Whole groups go where their number allows it, otherwise as many units from each.
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
        """Where in a parameter's dimension the kept units and groups are.

        Raises:
            ModelError: It is laid out in no way that is known.
        """
        sizes = {"u": (self.num_units, self.num_kept), "g": (self.num_groups, self.num_groups_kept)}
        for layout, width in product(_UNIT_LAYOUTS, (self.unit_width, 1)):
            before, after = (sum(sizes[part][i] for part in layout) * width for i in (0, 1))
            if (before, after) == (dimension.old_size, dimension.new_size):
                break
        else:
            raise ModelError(
                f"{self.recipe_key}: a dimension of {dimension.old_size} holds no such units."
            )
        found, start = [], 0
        for part in layout:
            found.append(start + (units if part == "u" else groups))
            start += sizes[part][0]
        return (torch.cat(found)[:, None] * width + torch.arange(width)).flatten()


def plan_width_pruning(
    model: "PreTrainedModel", *, heads: int | None = None, ffn: int | None = None
) -> tuple[PrunableUnits, ...]:
    """What has to go for so many heads and feed-forward neurons to stay in every layer.

    Args:
        model: A classifier; its weights aren't looked at (see `reshape.skeleton`).
        heads: Attention heads to keep in a layer.
        ffn: Feed-forward neurons to keep in a layer.

    Returns:
        The units concerned; nothing for a number that is the model's own.

    Raises:
        ModelError: There are fewer, or the architecture can't say so in its configuration.
    """
    found = [
        _plan_heads(model, heads) if heads is not None else None,
        _plan_ffn_neurons(model, ffn) if ffn is not None else None,
    ]
    return tuple(units for units in found if units is not None)


def build_narrowed_config(
    config: "PretrainedConfig", units: Iterable[PrunableUnits]
) -> "PretrainedConfig":
    """The configuration of the model that is left."""
    return tensor_slicing.copy_config_with(
        config, {name: v for u in units for name, v in u.config_values.items()}
    )


def get_model_widths(config: "PretrainedConfig") -> dict[str, int]:
    """How wide a model is: `hidden`, `heads`, `ffn` and `pieces`, as far as it says."""
    text = get_text_config(config)
    keys = {
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "ffn": _first_int_key(text, _FFN_SIZE_KEYS),
        "pieces": "vocab_size",
    }
    found = {name: getattr(text, key or "", None) for name, key in keys.items()}
    return {name: number for name, number in found.items() if isinstance(number, int)}


def build_scratch_config(
    config: "PretrainedConfig", hidden: int, *, heads: int | None = None, ffn: int | None = None
) -> "PretrainedConfig":
    """The configuration of a narrower model of the same family, to be trained from nothing.

    Heads keep their width; where their number and that of the neurons isn't given, they shrink
    as the hidden states do.

    Raises:
        ModelError: It is wider, or the architecture can't be built so.
    """
    text = get_text_config(config)
    if hidden > text.hidden_size:
        raise ModelError(
            f"student.hidden is {hidden}, and the teacher's hidden states are {text.hidden_size} "
            "wide."
        )
    before, groups, width = _attention_geometry(text)
    share, size = hidden / text.hidden_size, before // groups
    own, shared = _first_int_key(text, _HEAD_DIM_KEYS), _first_int_key(text, _NUM_KV_HEADS_KEYS)
    if own is None and heads is None and hidden % width:
        raise ModelError(
            f"student.hidden is {hidden}, no multiple of {width}, which a head of a model of type "
            f"{text.model_type} is wide.",
            "Say how many heads it is to have: student.heads.",
        )
    count = heads or max(1, int(groups * share)) * size
    values = {"hidden_size": hidden, "num_attention_heads": count}
    values |= {own: width} if own else {}
    values |= {shared: _count_kept_groups(before, count, groups)} if shared else {}
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
            f"student.heads is {num_kept}, and the teacher's layers have {before} heads."
        )
    if num_kept == before:
        return None
    own = _find_head_dim_key(model, width)
    if own is None:
        raise ModelError(
            f"student.heads: {num_kept} of {before} heads can't be saved, because the configuration "
            f"of a model of type {config.model_type} has no word for the width of a head, which "
            "is hidden_size / num_attention_heads.",
            "Leave out feed-forward neurons or layers, or take a fresh model: student.hidden.",
        )
    size = before // groups
    if num_kept % size and num_kept % groups:
        raise ModelError(
            f"student.heads is {num_kept}, but {size} heads share keys and values: whole groups can "
            f"stay, a multiple of {size}, or as many of each group, a multiple of {groups}."
        )
    values = {"num_attention_heads": num_kept, own: width}
    shared = _first_int_key(config, _NUM_KV_HEADS_KEYS)
    if shared:
        values[shared] = _count_kept_groups(before, num_kept, groups)
    cuts = tensor_slicing.find_resized_parameters(
        model, tensor_slicing.copy_config_with(model.config, values)
    )
    return PrunableUnits(
        "heads",
        before,
        num_kept,
        groups,
        width,
        values,
        cuts,
        _find_output_projections(model, cuts),
    )


def _plan_ffn_neurons(model: "PreTrainedModel", num_kept: int) -> PrunableUnits | None:
    config = get_text_config(model.config)
    values = {key: num_kept for key in _FFN_SIZE_KEYS if hasattr(config, key)}
    cuts = tensor_slicing.find_resized_parameters(
        model, tensor_slicing.copy_config_with(model.config, values)
    )
    sites = _find_output_projections(model, cuts)
    sizes = {cuts[f"{site}.weight"].old_size for site in sites}
    if values and not cuts and all(getattr(config, k) in (num_kept, None) for k in values):
        return None
    if len(sizes) != 1:
        raise ModelError(
            f"student.ffn: a model of type {config.model_type} has no feed-forward layers of one "
            "width that its configuration names.",
            "Leave out layers instead.",
        )
    (before,) = sizes
    if num_kept > before:
        raise ModelError(
            f"student.ffn is {num_kept:,}, and the teacher's feed-forward layers have {before:,} "
            "neurons."
        )
    return PrunableUnits("ffn", before, num_kept, before, 1, values, cuts, sites)


def _attention_geometry(config: "PretrainedConfig") -> tuple[int, int, int]:
    """Heads, heads of keys and values, and the width of one."""
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        raise ModelError(f"A {config.model_type} doesn't say how many attention heads it has.")
    groups, width = (_first_int_key(config, keys) for keys in (_NUM_KV_HEADS_KEYS, _HEAD_DIM_KEYS))
    return (
        heads,
        getattr(config, groups) if groups else heads,
        getattr(config, width) if width else config.hidden_size // heads,
    )


def _find_head_dim_key(model: "PreTrainedModel", width: int) -> str | None:
    """What sets the width of a head, apart from that of the model."""
    config = get_text_config(model.config)
    for key in sorted(_HEAD_DIM_KEYS, key=lambda key: not hasattr(config, key)):
        try:
            cuts = tensor_slicing.find_resized_parameters(
                model, tensor_slicing.copy_config_with(model.config, {key: 2 * width})
            )
        except ModelError:
            continue
        if _find_output_projections(model, cuts):
            return key
    return None


def _first_int_key(config: "PretrainedConfig", keys: tuple[str, ...]) -> str | None:
    """The first of the keys that the configuration has a number for."""
    return next((key for key in keys if isinstance(getattr(config, key, None), int)), None)


def _count_kept_groups(num_units: int, num_kept: int, num_groups: int) -> int:
    size = num_units // num_groups
    return num_groups if num_kept % size else num_kept // size


def _top_indices(values: Tensor, count: int) -> Tensor:
    """The places of the `count` largest in the last dimension, in rising order."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    return order[..., :count].sort(dim=-1).values


def _find_output_projections(
    model: "PreTrainedModel", resized_parameters: Mapping[str, tensor_slicing.ResizedDimension]
) -> tuple[str, ...]:
    from transformers.pytorch_utils import Conv1D

    read_along = {nn.Linear: 1, Conv1D: 0}
    names = (
        name.removesuffix(".weight") for name in resized_parameters if name.endswith(".weight")
    )
    return tuple(
        name
        for name in names
        if read_along.get(type(model.get_submodule(name)))
        == resized_parameters[f"{name}.weight"].dim
    )
