"""Prune the least important attention heads and feed-forward neurons of a model.

The parameters of a unit follow from the shapes of the smaller configuration and from names: a
parameter belongs to the output projection that it shares most of its name with.

A unit's importance is how much its absence would change the outputs. With a factor ξ = 1 on the
unit, that is the squared gradient of the model's outputs with respect to ξ: to first order, the
squared change of the outputs at ξ = 0. The factor is that of Michel et al. 2019 (arXiv:1905.10650,
section 4.1); on a neuron it gives the Taylor criterion of Molchanov et al. 2017 (arXiv:1611.06440,
eq. 7). Both differentiate the loss, which needs labels; the outputs need none.
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
from kdcli.models.batch_inference import Batch
from kdcli.models.width_pruning_plan import PrunableUnits, build_narrowed_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAYER_NUMBER = re.compile(r"\.\d+\.")
_TOLERANCE = 1e-3


def prune_width(
    model: "PreTrainedModel",
    units: tuple[PrunableUnits, ...],
    batches: Iterable[Batch],
    *,
    use_logits: bool,
) -> "PreTrainedModel":
    """Prune the units of each layer that matter least for the model's outputs.

    Args:
        model: A classifier, in evaluation mode.
        units: The plan of `plan_width_pruning`.
        batches: Inputs to measure the importance on, without labels.
        use_logits: Measure changes of the logits. Where the head is untrained, pass False to
            measure those of the last hidden states.

    Returns:
        The narrower model; its tensors are slices of the model's.

    Raises:
        ModelError: The result differs from the model with those units scaled to 0, because the
            architecture's parameter layout is unknown.
    """
    if not units:
        return model
    batches = list(batches)
    importance = compute_unit_importance(model, units, batches, use_logits=use_logits)
    kept: dict[str, tuple[int, Tensor]] = {}
    factors: dict[str, Tensor] = {}
    for unit in units:
        for projections, parameters in _tied_projections(unit):
            chosen = unit.select_units(
                torch.stack([importance[name] for name in projections]).sum(0)
            )
            for name in parameters:
                kept[name] = (
                    unit.resized_parameters[name].dim,
                    unit.kept_indices(unit.resized_parameters[name], *chosen),
                )
            mask = torch.zeros(1, unit.num_units).index_fill(1, chosen[0], 1.0)
            factors |= dict.fromkeys(projections, mask)
    smaller = tensor_slicing.build_sliced_model(
        model, build_narrowed_config(model.config, units), kept
    )
    with torch.no_grad():
        with _scale_units(model, _unit_widths(units), factors):
            expected = model(**batches[0]).logits
        error = (smaller(**batches[0]).logits - expected).abs().max()
    if not error <= _TOLERANCE * (1 + expected.abs().max()):
        raise ModelError(
            f"{' and '.join(f'student.{unit.recipe_key}' for unit in units)}: so pruned, "
            f"a model of type {model.config.model_type} computes something else than without "
            f"these units (its outputs are {error:.2g} off).",
            "Prune layers instead.",
        )
    return smaller


def compute_unit_importance(
    model: "PreTrainedModel",
    units: Iterable[PrunableUnits],
    batches: Iterable[Batch],
    *,
    use_logits: bool,
) -> dict[str, Tensor]:
    """Compute the importance of every unit.

    For each text x and a random direction v ~ N(0, I) in the space of the outputs z, the square
    of ∂(v · z(x))/∂ξ at ξ = 1 has the expectation ‖∂z(x)/∂ξ‖²; it is summed over the texts.

    Args:
        model: A classifier, in evaluation mode.
        units: The plan of `plan_width_pruning`.
        batches: Inputs.
        use_logits: Whether z is the logits, not the last hidden states.

    Returns:
        For each output projection, (units,) of float32 in squared units of the outputs.
    """
    random = torch.Generator().manual_seed(0)
    sizes = {name: unit.num_units for unit in units for name in unit.output_projections}
    importance = {name: torch.zeros(size) for name, size in sizes.items()}
    for batch in batches:
        rows = len(batch["input_ids"])
        ones = {n: torch.ones(rows, size, requires_grad=True) for n, size in sizes.items()}
        with _scale_units(model, _unit_widths(units), ones):
            outputs = _differentiable_outputs(model, batch, use_logits)
        direction = torch.randn(outputs.shape, generator=random).to(outputs)
        gradients = torch.autograd.grad(
            (outputs * direction).sum(), list(ones.values()), allow_unused=True
        )
        for name, gradient in zip(ones, gradients, strict=True):
            if gradient is not None:
                importance[name] += gradient.square().sum(0)
    return importance


def _tied_projections(units: PrunableUnits) -> Iterator[tuple[list[str], list[str]]]:
    """Group the output projections that must keep the same units, with their parameters.

    Most groups hold one projection. Projections that share a parameter, such as the position bias
    in T5's first layer, are in one group.
    """
    group_of = {name: {name} for name in units.output_projections}
    counts = Counter(map(_without_layer_number, units.resized_parameters))
    parameters_of: dict[str, list[str]] = {name: [] for name in units.output_projections}
    for parameter in units.resized_parameters:
        common = {p: _num_common_name_parts(p, parameter) for p in units.output_projections}
        owners = {p for p in common if common[p] == max(common.values())}
        in_all_layers = {
            p for p in group_of if _without_layer_number(p) in map(_without_layer_number, owners)
        }
        if counts[_without_layer_number(parameter)] < len(in_all_layers):
            owners = in_all_layers
        merged = set().union(*(group_of[p] for p in owners))
        group_of |= dict.fromkeys(merged, merged)
        parameters_of[min(owners)].append(parameter)
    for projections in {id(group): sorted(group) for group in group_of.values()}.values():
        yield projections, [name for p in projections for name in parameters_of[p]]


def _without_layer_number(name: str) -> str:
    """Replace the layer number in a name."""
    return _LAYER_NUMBER.sub(".#.", name, count=1)


def _num_common_name_parts(name: str, other_name: str) -> int:
    """Count the leading parts that two dotted names have in common."""
    pairs = zip(name.split("."), other_name.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _unit_widths(units: Iterable[PrunableUnits]) -> dict[str, int]:
    return {name: unit.unit_width for unit in units for name in unit.output_projections}


@contextmanager
def _scale_units(
    model: "PreTrainedModel", unit_widths: Mapping[str, int], factors: Mapping[str, Tensor]
) -> Iterator[None]:
    """Multiply each unit in the inputs of the output projections, within the block.

    Args:
        model: The model.
        unit_widths: Size of a unit, by output projection.
        factors: By output projection: (batch, units), or (1, units) for all texts.
    """

    def scale(projection: str, inputs: Tensor) -> Tensor:
        rows, size = factors[projection].shape
        by_unit = inputs.reshape(rows, -1, size, unit_widths[projection])
        return (by_unit * factors[projection].to(inputs)[:, None, :, None]).view_as(inputs)

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: (scale(name, inputs[0]), *inputs[1:])
        )
        for name in factors
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _differentiable_outputs(model: "PreTrainedModel", batch: Batch, use_logits: bool) -> Tensor:
    if use_logits:
        return model(**batch).logits
    outputs = model(**batch, output_hidden_states=True)
    states = outputs.get("hidden_states") or outputs["decoder_hidden_states"]
    return states[-1] * batch["attention_mask"][..., None]
