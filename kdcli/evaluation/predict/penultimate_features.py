"""The inputs of a classifier's last linear layer: its representation of each text."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdcli.data.tokenization.collator import PaddingCollator
from kdcli.models.batch_inference import Batch, predict_batches
from kdcli.models.cls_only import last_layer_cls_only

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


def predict_logits_and_features(
    model: "PreTrainedModel",
    collator: PaddingCollator,
    tokenized: "Dataset",
    batch_size: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Compute the logits of every row, and what the last linear layer reads.

    Args:
        model: A classifier; moved to evaluation mode.
        collator: The model's.
        tokenized: Rows of token ids.
        batch_size: Rows in a batch.
        advance: Called after each batch with the rows done and the number of rows.

    Returns:
        Logits (rows, classes) and features (rows, hidden size), both float32. The features are
        None for a model without a linear last layer.
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


def _select_token(states: Tensor, batch: Batch) -> Tensor:
    """The token of each text that the head's output is taken from."""
    if states.ndim != 3:
        return states
    # A decoder's head reads every token; its output is taken at the last one.
    mask = batch["attention_mask"]
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)
    return states[torch.arange(len(states), device=states.device), last]
