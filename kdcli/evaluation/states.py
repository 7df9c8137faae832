"""What a classifier's last linear layer reads: the text, as the model has understood it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class States:
    """Collects the states of the texts that pass through a model, while it is open.

    Args:
        model: A classifier.
        texts: How many texts will pass.
    """

    def __init__(self, model: "PreTrainedModel", texts: int) -> None:
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        heads = [m for m in linear if m.out_features == model.config.num_labels]
        self._head, self._texts = (heads[-1] if heads else None), texts
        self._read: torch.Tensor | None = None
        self.found: np.ndarray | None = None

    def __enter__(self) -> "States":
        if self._head is not None:
            self._hook = self._head.register_forward_pre_hook(self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._head is not None:
            self._hook.remove()

    def _remember(self, head: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        self._read = inputs[0]

    def __call__(self, places: np.ndarray, batch: Mapping[str, torch.Tensor]) -> None:
        """A batch has passed: `places` are its rows' numbers."""
        read = self._read
        if read is None:
            return
        if read.ndim == 3:
            # A decoder's head reads every token, and its answer is that of the last one.
            mask = batch["attention_mask"].to(read.device)
            last = (mask * torch.arange(mask.shape[1], device=read.device)).argmax(-1)
            read = read[torch.arange(len(read), device=read.device), last]
        if self.found is None:
            self.found = np.empty((self._texts, read.shape[-1]), dtype=np.float32)
        self.found[places] = read.float().cpu().numpy()
