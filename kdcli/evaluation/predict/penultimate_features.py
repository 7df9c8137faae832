"""What a classifier's last linear layer reads: the text, as the model has understood it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PenultimateFeatureHook:
    """Collects the states of the texts that pass through a model, while it is open.

    Args:
        model: A classifier.
        texts: How many texts will pass.
    """

    def __init__(self, model: "PreTrainedModel", num_texts: int) -> None:
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        heads = [m for m in linear if m.out_features == model.config.num_labels]
        self._head, self._num_texts = (heads[-1] if heads else None), num_texts
        self._head_inputs: torch.Tensor | None = None
        self.features: np.ndarray | None = None

    def __enter__(self) -> "PenultimateFeatureHook":
        if self._head is not None:
            self._hook = self._head.register_forward_pre_hook(self._record_head_inputs)
        return self

    def __exit__(self, *_: object) -> None:
        if self._head is not None:
            self._hook.remove()

    def _record_head_inputs(self, head: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        self._head_inputs = inputs[0]

    def __call__(self, row_ids: np.ndarray, batch: Mapping[str, torch.Tensor]) -> None:
        """A batch has passed: `row_ids` are its rows' numbers."""
        read = self._head_inputs
        if read is None:
            return
        if read.ndim == 3:
            # A decoder's head reads every token, and its answer is that of the last one.
            mask = batch["attention_mask"].to(read.device)
            last = (mask * torch.arange(mask.shape[1], device=read.device)).argmax(-1)
            read = read[torch.arange(len(read), device=read.device), last]
        if self.features is None:
            self.features = np.empty((self._num_texts, read.shape[-1]), dtype=np.float32)
        self.features[row_ids] = read.float().cpu().numpy()
