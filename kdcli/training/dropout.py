"""Dropout at another rate than the model's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def temporary_dropout(model: "PreTrainedModel", rate: float | None) -> Iterator[None]:
    """Set all of the model's dropout to one rate within a `with` block.

    The configuration, which is saved with the model, keeps the model's own.

    Args:
        model: Any model.
        rate: Between 0 and 1; None leaves the model's own.
    """
    if rate is None:
        yield
        return
    before = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if (isinstance(module, nn.Dropout) and name == "p")
        or ("dropout" in name and isinstance(value, float))
    ]
    for module, name, _ in before:
        setattr(module, name, rate)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
