"""Inputs of a classifier's last linear layer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdcli.data.tokenization import collator
from kdcli.models.batch_inference import Batch, predict_batches
from kdcli.models.cls_only import last_layer_cls_only

if TYPE_CHECKING:
    pass


class PenultimateFeatureHook:
    """Context manager that records the inputs of the last linear layer.

    Args:
        model: A classifier.
        num_texts: The number of texts that will be predicted.

    Attributes:
        features: float32, (texts, width); None if the model has no linear output layer.
    """

    heads = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == model.config.num_labels
    ]
    head_inputs: list[Tensor] = []

    def record_head_inputs(head: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        head_inputs[:] = [inputs[0]]

    def forward(batch: Batch) -> Sequence[Tensor]:
        logits = model(**batch).logits
        return [logits, *(_select_token(states, batch) for states in head_inputs)]

    hooks = [head.register_forward_pre_hook(record_head_inputs) for head in heads[-1:]]
    try:
        with last_layer_cls_only(model):
            logits, *features = predict_batches(
                model, collator, tokenized, batch_size, forward=forward, advance=advance
            )
    finally:
        for hook in hooks:
            hook.remove()
    return logits, features[0] if features else None

    def __call__(self, row_ids: np.ndarray, batch: Mapping[str, torch.Tensor]) -> None:
        """Store the features of a batch; `row_ids` are the indices of its texts."""
        inputs = self._head_inputs
        if inputs is None:
            return
        if inputs.ndim == 3:
            # The head of a decoder reads every token; the last one gives the prediction.
            mask = batch["attention_mask"].to(inputs.device)
            last = (mask * torch.arange(mask.shape[1], device=inputs.device)).argmax(-1)
            inputs = inputs[torch.arange(len(inputs), device=inputs.device), last]
        if self.features is None:
            self.features = np.empty((self._num_texts, inputs.shape[-1]), dtype=np.float32)
        self.features[row_ids] = inputs.float().cpu().numpy()
