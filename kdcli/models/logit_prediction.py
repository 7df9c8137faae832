"""The logits of a classifier for a split."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kdcli import distributed
from kdcli.data.tokenization.collator import PaddingCollator
from kdcli.data.tokenization.windows import average_windows
from kdcli.models.batch_inference import predict_batches
from kdcli.models.cls_only import last_layer_cls_only

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


def predict_logits(
    model: "PreTrainedModel",
    collator: PaddingCollator,
    tokenized: "Dataset",
    batch_size: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Compute the logits of every row, without gradients.

    Args:
        model: A classifier; moved to evaluation mode.
        collator: The model's.
        tokenized: Rows of token ids.
        batch_size: Rows in a batch.
        advance: Called after each batch with the rows done and the number of rows.

    Returns:
        float32, (rows, classes), in the order of `tokenized`.
    """
    with last_layer_cls_only(model):
        (logits,) = predict_batches(
            model,
            collator,
            tokenized,
            batch_size,
            forward=lambda batch: [model(**batch).logits],
            advance=advance,
        )
    return logits


def predict_logits_distributed(
    model: "PreTrainedModel",
    collator: PaddingCollator,
    tokenized: "Dataset",
    batch_size: int,
    advance: Callable[[int, int], None],
) -> np.ndarray:
    """Compute the logits of each text, shared out among the processes of the run.

    Returns:
        float32, (texts, classes), the same in every process; windows of a text are averaged.
    """
    num_rows, world_size = len(tokenized), distributed.world_size()
    shard_indices = np.array_split(np.arange(num_rows), world_size)[distributed.rank()]

    def advance_all(done: int, total: int) -> None:
        advance(num_rows * done // total, num_rows)

    shard = tokenized.select(shard_indices)
    logits = predict_logits(model, collator, shard, batch_size, advance_all) if len(shard) else None
    gathered = [part for part in distributed.all_gather(logits) if part is not None]
    return average_windows(np.concatenate(gathered), tokenized)
