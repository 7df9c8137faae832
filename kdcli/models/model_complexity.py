"""Count the parameters of a model and its operations per token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from kdcli.models import layer_stacks, model_io

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModelComplexity:
    """Size and work of a model.

    Attributes:
        parameters: Number of parameters; shared ones count once.
        flops_per_token: Floating-point operations of a forward pass per token: 2 for each
            parameter that a token is multiplied with. Attention between tokens is left out; on
            short texts it is little.
    """

    parameters: int
    flops_per_token: float


def count_parameters_and_flops(model: "PreTrainedModel") -> ModelComplexity:
    """Count a model's parameters and operations.

    Args:
        model: A classifier; may be on the meta device.
    """
    # The embeddings are looked up; pooler and head see one position of a text.
    multiplied = [
        (path, parameter.numel())
        for path, module in model.base_model.named_modules()
        if not isinstance(module, nn.Embedding) and "pooler" not in path
        for parameter in module.parameters(recurse=False)
    ]
    times = layer_stacks.passes_per_layer(model.config)
    work = sum(
        n * (times if layer_stacks.LAYER_PARAMETER_PATTERN.match(f"{path}.") else 1)
        for path, n in multiplied
    )
    return ModelComplexity(model_io.count_parameters(model), 2.0 * work)
