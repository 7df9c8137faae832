"""A narrower model: without the attention heads and feed-forward neurons that matter least.

Heads and neurons are one thing here, units: each has a slice of the input of a projection that
leads back into the model, its site. Which parameters belong to it follows from the shapes that a
smaller configuration asks for, and from names: a parameter belongs to the site that it shares
most of its name with.

What a unit is worth is what its absence would change. With a factor of 1 on it, that is the
squared gradient of the model's outputs with respect to the factor: to first order, how far the
outputs move when it becomes 0. The factor is that of Michel et al. 2019 (arXiv:1905.10650,
section 4.1); on a neuron it gives the Taylor criterion of Molchanov et al. 2017
(arXiv:1611.06440, eq. 7). Both differentiate the loss, and so need labels; the outputs need none.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product, takewhile
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
_LAYER = re.compile(r"\.\d+\.")
_TOLERANCE = 1e-3


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


def narrow(
    model: "PreTrainedModel", units: tuple[Units, ...], batches: Iterable[Batch], *, head: bool
) -> "PreTrainedModel":
    """Leave out what matters least for the model's own outputs, layer by layer.

    Args:
        model: A classifier, in evaluation mode.
        units: Of `plan`.
        batches: Inputs to measure on; labels aren't needed.
        head: Whether its head was trained: where not, its last hidden states are the outputs.

    Returns:
        The narrower model; every tensor of it is a slice of the model's.

    Raises:
        ModelError: It doesn't compute what the model computes without those units, so the
            architecture lays them out in a way that isn't known here.
    """
    if not units:
        return model
    batches = list(batches)
    worth = importance(model, units, batches, head=head)
    kept: dict[str, tuple[int, Tensor]] = {}
    factors: dict[str, Tensor] = {}
    for unit in units:
        for sites, parameters in _families(unit):
            chosen = unit.choose(torch.stack([worth[site] for site in sites]).sum(0))
            for name in parameters:
                kept[name] = unit.cuts[name].dim, unit.places(unit.cuts[name], *chosen)
            stay = torch.zeros(1, unit.before).index_fill(1, chosen[0], 1.0)
            factors |= dict.fromkeys(sites, stay)
    smaller = reshape.build(model, config_for(model.config, units), kept)
    with torch.no_grad():
        with _scaled(model, _widths(units), factors):
            expected = model(**batches[0]).logits
        off = (smaller(**batches[0]).logits - expected).abs().max()
    if not off <= _TOLERANCE * (1 + expected.abs().max()):
        raise ModelError(
            f"student.{' and student.'.join(unit.key for unit in units)}: cut so, a model of type "
            f"{model.config.model_type} computes something else than without these parts (its "
            f"outputs are {off:.2g} off).",
            "Leave out layers instead.",
        )
    return smaller


def importance(
    model: "PreTrainedModel", units: Iterable[Units], batches: Iterable[Batch], *, head: bool
) -> dict[str, Tensor]:
    """What every unit is worth, by site.

    For each text x and a random direction v ~ N(0, I) in the space of the outputs z, the square
    of ∂(v · z(x))/∂ξ at ξ = 1 has the expectation ‖∂z(x)/∂ξ‖²; it is summed over the texts.

    Args:
        model: A classifier, in evaluation mode.
        units: Of `plan`.
        batches: Inputs.
        head: Whether to look at the logits rather than at the last hidden states.

    Returns:
        (units,) of float32 for each site, in squared units of the outputs.
    """
    random = torch.Generator().manual_seed(0)
    sizes = {site: unit.before for unit in units for site in unit.sites}
    worth = {site: torch.zeros(size) for site, size in sizes.items()}
    for batch in batches:
        rows = len(batch["input_ids"])
        ones = {s: torch.ones(rows, size, requires_grad=True) for s, size in sizes.items()}
        with _scaled(model, _widths(units), ones):
            outputs = _outputs(model, batch, head)
        direction = torch.randn(outputs.shape, generator=random).to(outputs)
        gradients = torch.autograd.grad(
            (outputs * direction).sum(), list(ones.values()), allow_unused=True
        )
        for site, gradient in zip(ones, gradients, strict=True):
            if gradient is not None:
                worth[site] += gradient.square().sum(0)
    return worth


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


def _families(units: Units) -> Iterator[tuple[list[str], list[str]]]:
    """Sites whose units have to be the same, and the parameters that belong to them.

    Mostly each site is alone. But where one parameter serves several, as the position bias in a
    T5's first layer does, they keep the same units.
    """
    family = {site: {site} for site in units.sites}
    alike = Counter(map(_place, units.cuts))
    owned: dict[str, list[str]] = {site: [] for site in units.sites}
    for name in units.cuts:
        shared = {site: _shared(site, name) for site in units.sites}
        owners = {site for site in shared if shared[site] == max(shared.values())}
        kin = {site for site in family if _place(site) in map(_place, owners)}
        if alike[_place(name)] < len(kin):
            owners = kin
        together = set().union(*(family[site] for site in owners))
        family |= dict.fromkeys(together, together)
        owned[min(owners)].append(name)
    for sites in {id(group): sorted(group) for group in family.values()}.values():
        yield sites, [name for site in sites for name in owned[site]]


def _place(name: str) -> str:
    """A name without the number of its layer."""
    return _LAYER.sub(".#.", name, count=1)


def _shared(one: str, other: str) -> int:
    """How many parts two names begin with alike."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _widths(units: Iterable[Units]) -> dict[str, int]:
    return {site: unit.width for unit in units for site in unit.sites}


@contextmanager
def _scaled(
    model: "PreTrainedModel", widths: Mapping[str, int], factors: Mapping[str, Tensor]
) -> Iterator[None]:
    """Within the block each unit's part of its site's input is multiplied.

    Args:
        model: The model that is called within the block.
        widths: Places of a unit, by site.
        factors: By site: (texts, units), or (1, units) for any text.
    """

    def scale(site: str, inputs: Tensor) -> Tensor:
        rows, size = factors[site].shape
        by_unit = inputs.reshape(rows, -1, size, widths[site])
        return (by_unit * factors[site].to(inputs)[:, None, :, None]).view_as(inputs)

    hooks = [
        model.get_submodule(site).register_forward_pre_hook(
            lambda _, inputs, site=site: (scale(site, inputs[0]), *inputs[1:])
        )
        for site in factors
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _outputs(model: "PreTrainedModel", batch: Batch, head: bool) -> Tensor:
    if head:
        return model(**batch).logits
    found = model(**batch, output_hidden_states=True)
    states = found.get("hidden_states") or found["decoder_hidden_states"]
    return states[-1] * batch["attention_mask"][..., None]
