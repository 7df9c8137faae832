"""A model's outputs for a whole split."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcli.data.encode import Collator, lengths

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def collator_for(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    place: torch.Tensor | None = None,
) -> Collator:
    """A collator that gives the model what its `forward` names, and nothing else."""
    return Collator(tokenizer, tuple(inspect.signature(model.forward).parameters), place)


def logits(
    model: "PreTrainedModel",
    collate: Collator,
    encoded: "Dataset",
    batch_size: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """The model's logits for every row, without gradients, in batches of like length.

    Args:
        model: A classifier; it is put in evaluation mode.
        collate: Of that model.
        encoded: Rows of token ids.
        batch_size: Rows in a batch.
        advance: Told of rows done and rows in all.

    Returns:
        float32, (rows, classes), in the order of `encoded`.
    """
    model.eval()
    rows = encoded.select_columns([c for c in encoded.column_names if c not in ("label", "labels")])
    order = np.argsort(-lengths(encoded), kind="stable")
    found: np.ndarray | None = None
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = collate(rows.__getitems__(places.tolist()))
            outputs = model(**{name: t.to(model.device) for name, t in batch.items()}).logits
            if found is None:
                found = np.empty((len(order), outputs.shape[-1]), dtype=np.float32)
            found[places] = outputs.float().cpu().numpy()
            advance(min(start + batch_size, len(order)), len(order))
    assert found is not None, "an empty split is refused where it is loaded"
    return found
