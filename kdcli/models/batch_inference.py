"""The inference loop: run a model over texts in batches, without gradients."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdcli.data.tokenization.batch_sampler import length_sorted_batches
from kdcli.data.tokenization.collator import PaddingCollator
from kdcli.data.tokenization.tokenize import token_lengths
from kdcli.models.padding_invariance import needs_equal_lengths

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]
ProgressCallback = Callable[[int, int], None]


def predict_batches(
    model: "PreTrainedModel",
    collator: PaddingCollator,
    tokenized: "Dataset",
    batch_size: int,
    *,
    forward: Callable[[Batch], Iterable[Tensor]],
    advance: ProgressCallback = lambda done, total: None,
) -> list[np.ndarray]:
    """Collect what `forward` returns for every row.

    Args:
        model: Moved to evaluation mode.
        collator: The model's.
        tokenized: Rows of token ids, at least one.
        batch_size: Rows in a batch.
        forward: Runs the model on a batch. Returns tensors of shape (batch, ...), whose shape
            after the first dimension is the same for every batch.
        advance: Called after each batch with the rows done and the number of rows.

    Returns:
        One float32 array of shape (rows, ...) for each tensor, in the order of `tokenized`.
    """
    arrays: list[np.ndarray] = []

    def keep_outputs(row_indices: np.ndarray, batch: Batch) -> None:
        outputs = list(forward(batch))
        if not arrays:
            arrays.extend(
                np.empty((len(tokenized), *output.shape[1:]), dtype=np.float32)
                for output in outputs
            )
        for array, output in zip(arrays, outputs, strict=True):
            array[row_indices] = output.float().cpu().numpy()

    run_length_sorted_batches(
        model, collator, tokenized, batch_size, process=keep_outputs, advance=advance
    )
    assert arrays, "an empty split is refused where it is loaded"
    return arrays


def run_length_sorted_batches(
    model: "PreTrainedModel",
    collator: PaddingCollator,
    tokenized: "Dataset",
    batch_size: int,
    *,
    process: Callable[[np.ndarray, Batch], None],
    advance: ProgressCallback = lambda done, total: None,
    longest_first: bool = True,
) -> None:
    """Process every row, in batches of similar length.

    Models whose logits change with padding get batches of one length. See `run_batches` for
    `process` and `advance`.

    Args:
        model: Moved to evaluation mode.
        collator: The model's.
        tokenized: Rows of token ids; other columns are ignored.
        batch_size: Rows in a batch.
        process: Called with a batch.
        advance: Called after each batch.
        longest_first: Start with the longest rows, so that running out of memory happens at once.
    """
    names = [n for n in collator.tokenizer.model_input_names if n in tokenized.column_names]
    rows = tokenized.select_columns(names)
    batches = length_sorted_batches(
        token_lengths(tokenized),
        batch_size,
        longest_first=longest_first,
        equal_length=needs_equal_lengths(model),
    )
    run_batches(
        model, batches, lambda indices: collator(rows.__getitems__(indices)), process, advance
    )


def run_batches(
    model: "PreTrainedModel",
    batches: Sequence[np.ndarray],
    make_batch: Callable[[list[int]], Batch],
    process: Callable[[np.ndarray, Batch], None],
    advance: ProgressCallback,
) -> None:
    """Process given batches in their order, in inference mode.

    Args:
        model: Moved to evaluation mode.
        batches: The row indices of each batch.
        make_batch: Returns the model's inputs for row indices.
        process: Called with the row indices of a batch and its inputs on the model's device.
        advance: Called after each batch with the rows done and the number of rows.
    """
    model.eval()
    done, total = 0, sum(map(len, batches))
    with torch.inference_mode():
        for row_indices in batches:
            batch = make_batch(row_indices.tolist())
            process(row_indices, {name: t.to(model.device) for name, t in batch.items()})
            done += len(row_indices)
            advance(done, total)
