"""The inference loop: run a model over texts in batches, without gradients."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdcli.data.tokenization.batch_sampler import length_sorted_batches
from kdcli.data.tokenization.collator import PaddingCollator
from kdcli.data.tokenization.tokenize import token_lengths
from kdcli.models.device import free_memory, on_inference_device
from kdcli.models.padding_invariance import needs_equal_lengths

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

_LOGGER = logging.getLogger(__name__)

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
    """Process given batches in their order, in inference mode, on the accelerator if there is one.

    A batch that doesn't fit the memory of the accelerator is halved, and so are those after it.

    Args:
        model: Moved to evaluation mode; afterwards it is on the device where it was.
        batches: The row indices of each batch.
        make_batch: Returns the model's inputs for row indices.
        process: Called with the row indices of a batch and its inputs on the model's device. It
            may be called for a batch, and again for parts of it.
        advance: Called after each batch with the rows done and the number of rows.
    """
    model.eval()
    done, total = 0, sum(map(len, batches))
    waiting, max_rows = [*reversed(batches)], total
    # Weights that are moved in inference mode could not be trained afterwards.
    with on_inference_device(model) as device, torch.inference_mode():
        while waiting:
            row_indices = waiting.pop()
            if len(row_indices) > max_rows:
                waiting += [row_indices[max_rows:], row_indices[:max_rows]]
                continue
            try:
                batch = make_batch(row_indices.tolist())
                process(row_indices, {name: t.to(device) for name, t in batch.items()})
            except torch.OutOfMemoryError:
                if len(row_indices) == 1:
                    raise
                max_rows = len(row_indices) // 2
                _LOGGER.warning(
                    "Out of memory on %s: batches of %d texts instead of %d.",
                    device,
                    max_rows,
                    len(row_indices),
                )
                waiting.append(row_indices)
            else:
                done += len(row_indices)
                advance(done, total)
                continue
            # Outside of the handler, whose exception holds the tensors of the batch.
            free_memory(device)
