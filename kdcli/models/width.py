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
from kdcli.models import reshape
from kdcli.models.layers import text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Batch = Mapping[str, Tensor]

# What configurations call the width of a head, the heads of keys and values, and the neurons.
_HEAD_WIDTH = ("head_dim", "d_kv", "d_head", "attention_head_size")
_GROUPS = ("num_key_value_heads", "num_kv_heads")
_FEED_FORWARD = (
    "intermediate_size", "hidden_dim", "d_ff", "d_inner", "n_inner", "ffn_dim", "ffn_hidden_size",
    "encoder_ffn_dim", "decoder_ffn_dim",
)  # fmt: skip
# How a parameter's dimension is made up of units (u) and groups (g): queries, keys and values
# in one matrix are ugg, the two halves of a gated feed-forward layer gg.
_LAYOUTS = ("u", "g", "ugg", "gg")


@dataclass(frozen=True)
class Units:
    """The heads, or the neurons, of a layer, and how many of them stay.

    Attributes:
        key: What a recipe calls the number that stays.
        before: How many a layer has.
        after: How many stay.
        groups: Groups of equal size that share something, such as keys and values. A unit that
            shares nothing is its own group.
        width: Places that one takes in the input of its site.
        values: What the smaller configuration says, by attribute.
        cuts: The parameters that get smaller.
        sites: The modules whose input is the units', by name.
    """

    key: str
    before: int
    after: int
    groups: int
    width: int
    values: Mapping[str, int]
    cuts: Mapping[str, reshape.Cut]
    sites: tuple[str, ...]

    @property
    def groups_after(self) -> int:
        """How many groups stay."""
        return _groups_after(self.before, self.after, self.groups)

    def choose(self, worth: Tensor) -> tuple[Tensor, Tensor]:
        """The units to keep and their groups, in order, by what each unit is worth.

        Whole groups go where their number allows it, otherwise as many units from each.
        """
        by_group = worth.view(self.groups, -1)
        first = torch.arange(self.before).view_as(by_group)
        if self.groups_after < self.groups:
            groups = _best(by_group.sum(1), self.groups_after)
            return first[groups].flatten(), groups
        best = _best(by_group, self.after // self.groups)
        return first.gather(1, best).flatten(), torch.arange(self.groups)

    def places(self, cut: reshape.Cut, units: Tensor, groups: Tensor) -> Tensor:
        """Where in a parameter's dimension the kept units and groups are.

        Raises:
            ModelError: It is laid out in no way that is known.
        """
        sizes = {"u": (self.before, self.after), "g": (self.groups, self.groups_after)}
        for layout, width in product(_LAYOUTS, (self.width, 1)):
            before, after = (sum(sizes[part][i] for part in layout) * width for i in (0, 1))
            if (before, after) == (cut.before, cut.after):
                break
        else:
            raise ModelError(f"{self.key}: a dimension of {cut.before} holds no such units.")
        found, start = [], 0
        for part in layout:
            found.append(start + (units if part == "u" else groups))
            start += sizes[part][0]
        return (torch.cat(found)[:, None] * width + torch.arange(width)).flatten()


def plan(
    model: "PreTrainedModel", *, heads: int | None = None, ffn: int | None = None
) -> tuple[Units, ...]:
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
        _heads(model, heads) if heads is not None else None,
        _neurons(model, ffn) if ffn is not None else None,
    ]
    return tuple(units for units in found if units is not None)


def config_for(config: "PretrainedConfig", units: Iterable[Units]) -> "PretrainedConfig":
    """The configuration of the model that is left."""
    return reshape.changed(config, {name: v for u in units for name, v in u.values.items()})


def widths(config: "PretrainedConfig") -> dict[str, int]:
    """How wide a model is: `hidden`, `heads`, `ffn` and `pieces`, as far as it says."""
    text = text_config(config)
    keys = {
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "ffn": _first(text, _FEED_FORWARD),
        "pieces": "vocab_size",
    }
    found = {name: getattr(text, key or "", None) for name, key in keys.items()}
    return {name: number for name, number in found.items() if isinstance(number, int)}


def fresh(
    config: "PretrainedConfig", hidden: int, *, heads: int | None = None, ffn: int | None = None
) -> "PretrainedConfig":
    """The configuration of a narrower model of the same family, to be trained from nothing.

    Heads keep their width; where their number and that of the neurons isn't given, they shrink
    as the hidden states do.

    Raises:
        ModelError: It is wider, or the architecture can't be built so.
    """
    text = text_config(config)
    if hidden > text.hidden_size:
        raise ModelError(
            f"student.hidden is {hidden}, and the teacher's hidden states are {text.hidden_size} "
            "wide."
        )
    before, groups, width = _geometry(text)
    share, size = hidden / text.hidden_size, before // groups
    own, shared = _first(text, _HEAD_WIDTH), _first(text, _GROUPS)
    if own is None and heads is None and hidden % width:
        raise ModelError(
            f"student.hidden is {hidden}, no multiple of {width}, which a head of a model of type "
            f"{text.model_type} is wide.",
            "Say how many heads it is to have: student.heads.",
        )
    count = heads or max(1, int(groups * share)) * size
    values = {"hidden_size": hidden, "num_attention_heads": count}
    values |= {own: width} if own else {}
    values |= {shared: _groups_after(before, count, groups)} if shared else {}
    for key in _FEED_FORWARD:
        if isinstance(number := getattr(text, key, None), int):
            values[key] = ffn or round(number * share)
    smaller = reshape.changed(config, values)
    reshape.skeleton(smaller)
    return smaller


def _heads(model: "PreTrainedModel", after: int) -> Units | None:
    config = text_config(model.config)
    before, groups, width = _geometry(config)
    if after > before:
        raise ModelError(f"student.heads is {after}, and the teacher's layers have {before} heads.")
    if after == before:
        return None
    own = _width_key(model, width)
    if own is None:
        raise ModelError(
            f"student.heads: {after} of {before} heads can't be saved, because the configuration "
            f"of a model of type {config.model_type} has no word for the width of a head, which "
            "is hidden_size / num_attention_heads.",
            "Leave out feed-forward neurons or layers, or take a fresh model: student.hidden.",
        )
    size = before // groups
    if after % size and after % groups:
        raise ModelError(
            f"student.heads is {after}, but {size} heads share keys and values: whole groups can "
            f"stay, a multiple of {size}, or as many of each group, a multiple of {groups}."
        )
    values = {"num_attention_heads": after, own: width}
    shared = _first(config, _GROUPS)
    if shared:
        values[shared] = _groups_after(before, after, groups)
    cuts = reshape.cuts(model, reshape.changed(model.config, values))
    return Units("heads", before, after, groups, width, values, cuts, _sites(model, cuts))


def _neurons(model: "PreTrainedModel", after: int) -> Units | None:
    config = text_config(model.config)
    values = {key: after for key in _FEED_FORWARD if hasattr(config, key)}
    cuts = reshape.cuts(model, reshape.changed(model.config, values))
    sites = _sites(model, cuts)
    sizes = {cuts[f"{site}.weight"].before for site in sites}
    if values and not cuts and all(getattr(config, k) in (after, None) for k in values):
        return None
    if len(sizes) != 1:
        raise ModelError(
            f"student.ffn: a model of type {config.model_type} has no feed-forward layers of one "
            "width that its configuration names.",
            "Leave out layers instead.",
        )
    (before,) = sizes
    if after > before:
        raise ModelError(
            f"student.ffn is {after:,}, and the teacher's feed-forward layers have {before:,} "
            "neurons."
        )
    return Units("ffn", before, after, before, 1, values, cuts, sites)


def _geometry(config: "PretrainedConfig") -> tuple[int, int, int]:
    """Heads, heads of keys and values, and the width of one."""
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        raise ModelError(f"A {config.model_type} doesn't say how many attention heads it has.")
    groups, width = (_first(config, keys) for keys in (_GROUPS, _HEAD_WIDTH))
    return (
        heads,
        getattr(config, groups) if groups else heads,
        getattr(config, width) if width else config.hidden_size // heads,
    )


def _width_key(model: "PreTrainedModel", width: int) -> str | None:
    """What sets the width of a head, apart from that of the model."""
    config = text_config(model.config)
    for key in sorted(_HEAD_WIDTH, key=lambda key: not hasattr(config, key)):
        try:
            cuts = reshape.cuts(model, reshape.changed(model.config, {key: 2 * width}))
        except ModelError:
            continue
        if _sites(model, cuts):
            return key
    return None


def _first(config: "PretrainedConfig", keys: tuple[str, ...]) -> str | None:
    """The first of the keys that the configuration has a number for."""
    return next((key for key in keys if isinstance(getattr(config, key, None), int)), None)


def _groups_after(before: int, after: int, groups: int) -> int:
    size = before // groups
    return groups if after % size else after // size


def _best(worth: Tensor, count: int) -> Tensor:
    """The places of the `count` largest in the last dimension, in rising order."""
    order = worth.argsort(dim=-1, descending=True, stable=True)
    return order[..., :count].sort(dim=-1).values


def _sites(model: "PreTrainedModel", cuts: Mapping[str, reshape.Cut]) -> tuple[str, ...]:
    from transformers.pytorch_utils import Conv1D

    read_along = {nn.Linear: 1, Conv1D: 0}
    names = (name.removesuffix(".weight") for name in cuts if name.endswith(".weight"))
    return tuple(
        name
        for name in names
        if read_along.get(type(model.get_submodule(name))) == cuts[f"{name}.weight"].dim
    )
