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
from kdcli.models import tensor_slicing
from kdcli.models.prunable_units import PrunableUnits, build_narrowed_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]

_LAYER_NUMBER = re.compile(r"\.\d+\.")
_TOLERANCE = 1e-3


def prune_width(
    model: "PreTrainedModel",
    units: tuple[PrunableUnits, ...],
    batches: Iterable[Batch],
    *,
    use_logits: bool,
) -> "PreTrainedModel":
    """Leave out what matters least for the model's own outputs, layer by layer.

    Args:
        model: A classifier, in evaluation mode.
        units: Of `plan`.
        batches: Inputs to measure on; labels aren't needed.
        use_logits: Whether its head was trained: where not, its last hidden states are the outputs.

    Returns:
        The narrower model; every tensor of it is a slice of the model's.

    Raises:
        ModelError: It doesn't compute what the model computes without those units, so the
            architecture lays them out in a way that isn't known here.
    """
    if not units:
        return model
    batches = list(batches)
    worth = compute_unit_importance(model, units, batches, use_logits=use_logits)
    kept: dict[str, tuple[int, Tensor]] = {}
    factors: dict[str, Tensor] = {}
    for unit in units:
        for sites, parameters in _tied_projections(unit):
            chosen = unit.select_units(torch.stack([worth[site] for site in sites]).sum(0))
            for name in parameters:
                kept[name] = (
                    unit.resized_parameters[name].dim,
                    unit.kept_indices(unit.resized_parameters[name], *chosen),
                )
            stay = torch.zeros(1, unit.num_units).index_fill(1, chosen[0], 1.0)
            factors |= dict.fromkeys(sites, stay)
    smaller = tensor_slicing.build_sliced_model(
        model, build_narrowed_config(model.config, units), kept
    )
    with torch.no_grad():
        with _scale_units(model, _unit_widths(units), factors):
            expected = model(**batches[0]).logits
        off = (smaller(**batches[0]).logits - expected).abs().max()
    if not off <= _TOLERANCE * (1 + expected.abs().max()):
        raise ModelError(
            f"student.{' and student.'.join(unit.recipe_key for unit in units)}: cut so, a model of type "
            f"{model.config.model_type} computes something else than without these parts (its "
            f"outputs are {off:.2g} off).",
            "Leave out layers instead.",
        )
    return smaller


def compute_unit_importance(
    model: "PreTrainedModel",
    units: Iterable[PrunableUnits],
    batches: Iterable[Batch],
    *,
    use_logits: bool,
) -> dict[str, Tensor]:
    """What every unit is worth, by site.

    For each text x and a random direction v ~ N(0, I) in the space of the outputs z, the square
    of ∂(v · z(x))/∂ξ at ξ = 1 has the expectation ‖∂z(x)/∂ξ‖²; it is summed over the texts.

    Args:
        model: A classifier, in evaluation mode.
        units: Of `plan`.
        batches: Inputs.
        use_logits: Whether to look at the logits rather than at the last hidden states.

    Returns:
        (units,) of float32 for each site, in squared units of the outputs.
    """
    random = torch.Generator().manual_seed(0)
    sizes = {site: unit.num_units for unit in units for site in unit.output_projections}
    worth = {site: torch.zeros(size) for site, size in sizes.items()}
    for batch in batches:
        rows = len(batch["input_ids"])
        ones = {s: torch.ones(rows, size, requires_grad=True) for s, size in sizes.items()}
        with _scale_units(model, _unit_widths(units), ones):
            outputs = _differentiable_outputs(model, batch, use_logits)
        direction = torch.randn(outputs.shape, generator=random).to(outputs)
        gradients = torch.autograd.grad(
            (outputs * direction).sum(), list(ones.values()), allow_unused=True
        )
        for site, gradient in zip(ones, gradients, strict=True):
            if gradient is not None:
                worth[site] += gradient.square().sum(0)
    return worth


def _tied_projections(units: PrunableUnits) -> Iterator[tuple[list[str], list[str]]]:
    """Sites whose units have to be the same, and the parameters that belong to them.

    Mostly each site is alone. But where one parameter serves several, as the position bias in a
    T5's first layer does, they keep the same units.
    """
    family = {site: {site} for site in units.output_projections}
    alike = Counter(map(_without_layer_number, units.resized_parameters))
    owned: dict[str, list[str]] = {site: [] for site in units.output_projections}
    for name in units.resized_parameters:
        shared = {site: _num_common_name_parts(site, name) for site in units.output_projections}
        owners = {site for site in shared if shared[site] == max(shared.values())}
        kin = {
            site
            for site in family
            if _without_layer_number(site) in map(_without_layer_number, owners)
        }
        if alike[_without_layer_number(name)] < len(kin):
            owners = kin
        together = set().union(*(family[site] for site in owners))
        family |= dict.fromkeys(together, together)
        owned[min(owners)].append(name)
    for sites in {id(group): sorted(group) for group in family.values()}.values():
        yield sites, [name for site in sites for name in owned[site]]


def _without_layer_number(name: str) -> str:
    """A name without the number of its layer."""
    return _LAYER_NUMBER.sub(".#.", name, count=1)


def _num_common_name_parts(one: str, other: str) -> int:
    """How many parts two names begin with alike."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _unit_widths(units: Iterable[PrunableUnits]) -> dict[str, int]:
    return {site: unit.unit_width for unit in units for site in unit.output_projections}


@contextmanager
def _scale_units(
    model: "PreTrainedModel", unit_widths: Mapping[str, int], factors: Mapping[str, Tensor]
) -> Iterator[None]:
    """Within the block each unit's part of its site's input is multiplied.

    Args:
        model: The model that is called within the block.
        unit_widths: Places of a unit, by site.
        factors: By site: (texts, units), or (1, units) for any text.
    """

    def scale(site: str, inputs: Tensor) -> Tensor:
        rows, size = factors[site].shape
        by_unit = inputs.reshape(rows, -1, size, unit_widths[site])
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


def _differentiable_outputs(model: "PreTrainedModel", batch: Batch, use_logits: bool) -> Tensor:
    if use_logits:
        return model(**batch).logits
    found = model(**batch, output_hidden_states=True)
    states = found.get("hidden_states") or found["decoder_hidden_states"]
    return states[-1] * batch["attention_mask"][..., None]
