"""A model's outputs for a whole split."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcli import distributed
from kdcli.data.tokenization.batch_sampler import length_sorted_batches
from kdcli.data.tokenization.collator import PaddingCollator
from kdcli.data.tokenization.tokenize import token_lengths
from kdcli.data.tokenization.windows import TEXT_INDEX, average_windows
from kdcli.models.cls_only import last_layer_cls_only
from kdcli.models.padding import needs_equal_lengths

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


def predict_logits(
    model: "PreTrainedModel",
    collator: PaddingCollator,
    tokenized: "Dataset",
    batch_size: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
    *,
    on_batch: Callable[[np.ndarray, Mapping[str, torch.Tensor]], None] = lambda places, batch: None,
) -> np.ndarray:
    """The model's logits for every row, without gradients, in batches of like length.

    Args:
        model: A classifier; it is put in evaluation mode.
        collator: Of that model.
        tokenized: Rows of token ids.
        batch_size: Rows in a batch.
        advance: Told of rows done and rows in all.
        on_batch: Given each batch that has passed: its rows' places in `tokenized`, and the inputs.

    Returns:
        float32, (rows, classes), in the order of `tokenized`.
    """
    model.eval()
    aside = {"label", "labels", TEXT_INDEX}
    rows = tokenized.select_columns([c for c in tokenized.column_names if c not in aside])
    # The longest first: what runs out of memory does so at once.
    batches = length_sorted_batches(
        token_lengths(tokenized),
        batch_size,
        longest_first=True,
        equal_length=needs_equal_lengths(model),
    )
    found: np.ndarray | None = None
    done = 0
    with torch.inference_mode(), last_layer_cls_only(model):
        for places in batches:
            batch = collator(rows.__getitems__(places.tolist()))
            outputs = model(**{name: t.to(model.device) for name, t in batch.items()}).logits
            if found is None:
                found = np.empty((len(tokenized), outputs.shape[-1]), dtype=np.float32)
            found[places] = outputs.float().cpu().numpy()
            on_batch(places, batch)
            done += len(places)
            advance(done, len(tokenized))
    assert found is not None, "an empty split is refused where it is loaded"
    return found


def predict_logits_distributed(
    model: "PreTrainedModel",
    collator: PaddingCollator,
    tokenized: "Dataset",
    batch_size: int,
    advance: Callable[[int, int], None],
) -> np.ndarray:
    """The logits of each text: each process of the run does its share, and gets the whole."""
    rows, count = len(tokenized), distributed.world_size()
    mine = np.array_split(np.arange(rows), count)[distributed.rank()]

    def advance_all(done: int, total: int) -> None:
        advance(rows * done // total, rows)

    share = tokenized.select(mine)
    part = predict_logits(model, collator, share, batch_size, advance_all) if len(share) else None
    parts = [found for found in distributed.all_gather(part) if found is not None]
    return average_windows(np.concatenate(parts), tokenized)
