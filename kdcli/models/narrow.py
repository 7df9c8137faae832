"""A narrower model: without the attention heads and feed-forward neurons that matter least.

Which parameters belong to a unit follows from the shapes that a smaller configuration asks for,
and from names: a parameter belongs to the site that it shares most of its name with.

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
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdcli.errors import ModelError
from kdcli.models import reshape
from kdcli.models.width import Units, config_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]

_LAYER = re.compile(r"\.\d+\.")
_TOLERANCE = 1e-3


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
