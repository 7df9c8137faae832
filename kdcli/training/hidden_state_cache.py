"""The teacher's hidden states on disk: computed once, read by every epoch."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kdcli.data.tokenization.collator import PaddingCollator
from kdcli.data.tokenization.tokenize import token_lengths
from kdcli.models.batch_inference import Batch, run_length_sorted_batches
from kdcli.training.model_outputs import forward_with_hidden

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

ROW_COLUMN = "row"
_CACHE_FILE = "teacher-hidden.f32"
_BATCH_KEY_PREFIX = "teacher_hidden_"
_BATCH_SIZE = 64
_MAX_SHARE_OF_FREE_DISK = 0.5


class HiddenStateCache:
    """Hidden states of a dataset's rows in a memory-mapped file.

    Args:
        cache_file: The file: float32, (states, tokens of all rows, hidden_size).
        token_counts: Number of tokens of each row, (rows,).
        state_indices: Indices of the cached hidden states; 0 is the embeddings' output, 1 the first
            layer's.
        hidden_size: The teacher's hidden width.
        mode: "r" to read; "w+" to create the file.
    """

    def __init__(
        self,
        cache_file: Path,
        token_counts: np.ndarray,
        state_indices: Sequence[int],
        hidden_size: int,
        mode: str = "r",
    ) -> None:
        self.state_indices, self.token_ends = tuple(state_indices), np.cumsum(token_counts)
        shape = (len(self.state_indices), int(self.token_ends[-1]), hidden_size)
        self.hidden_states = np.memmap(cache_file, np.float32, mode, shape=shape)  # type: ignore[call-overload]

    def wrap_collator(
        self, collator: PaddingCollator
    ) -> Callable[[Sequence[Mapping[str, Any]]], Any]:
        """Return a collator that adds the states of the rows, which it finds by column `row`."""

        def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
            batch = collator(rows)
            return batch | self.padded_hidden_states(
                batch.pop(ROW_COLUMN).tolist(), batch["attention_mask"]
            )

        return collate

    def padded_hidden_states(
        self, row_indices: Sequence[int], attention_mask: Tensor
    ) -> dict[str, Tensor]:
        """Return the states of a batch, each (batch, tokens, hidden_size), with zeros for padding.

        Args:
            row_indices: The rows' numbers, (batch,).
            attention_mask: (batch, tokens), 1 for a token; padding may be on either side.
        """
        spans = [self.row_token_slice(row) for row in row_indices]
        batch_states = {}
        for number, state_index in enumerate(self.state_indices):
            states = np.concatenate([self.hidden_states[number, span] for span in spans])
            padded = torch.zeros(*attention_mask.shape, states.shape[-1])
            padded[attention_mask.bool()] = torch.from_numpy(states)
            batch_states[f"{_BATCH_KEY_PREFIX}{state_index}"] = padded
        return batch_states

    def row_token_slice(self, row: int) -> slice:
        """Return the slice of a row's tokens among those of all rows."""
        return slice(int(self.token_ends[row - 1]) if row else 0, int(self.token_ends[row]))


def hidden_states_from_batch(batch: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Return the cached hidden states in a batch, by their index."""
    return {
        int(n.removeprefix(_BATCH_KEY_PREFIX)): t
        for n, t in batch.items()
        if n.startswith(_BATCH_KEY_PREFIX)
    }


def cache_fits_on_disk(
    tokenized: "Dataset", state_indices: Sequence[int], hidden_size: int, folder: Path
) -> bool:
    """Return whether the states take less than half of the free disk space."""
    required_bytes = 4 * len(state_indices) * int(token_lengths(tokenized).sum()) * hidden_size
    return required_bytes < _MAX_SHARE_OF_FREE_DISK * shutil.disk_usage(folder).free


def write_hidden_state_cache(
    teacher: "PreTrainedModel",
    collator: PaddingCollator,
    tokenized: "Dataset",
    state_indices: Sequence[int],
    folder: Path,
    *,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Compute the teacher's hidden states, unless they are in the folder already.

    Args:
        teacher: The teacher; it is put in evaluation mode.
        collator: The teacher's collator.
        tokenized: Tokenised rows; a row's number is its index.
        state_indices: Indices of the hidden states to write.
        folder: A folder of this training alone.
        advance: Gets the number of rows done, and of all rows.
    """
    path, tokens = folder / _CACHE_FILE, token_lengths(tokenized)
    if path.exists():
        return
    unfinished = path.with_suffix(".new")
    cache = HiddenStateCache(unfinished, tokens, state_indices, teacher.config.hidden_size, "w+")

    def write_batch(row_indices: np.ndarray, batch: Batch) -> None:
        hidden = forward_with_hidden(teacher, batch, frozenset({"hidden_states"})).hidden_states
        real = batch["attention_mask"].bool()
        for number, state_index in enumerate(cache.state_indices):
            states = torch.split(hidden[state_index][real], real.sum(1).tolist())
            for row, row_states in zip(row_indices, states, strict=True):
                cache.hidden_states[number, cache.row_token_slice(int(row))] = (
                    row_states.float().cpu().numpy()
                )

    run_length_sorted_batches(
        teacher,
        collator,
        tokenized,
        _BATCH_SIZE,
        process=write_batch,
        advance=advance,
        longest_first=False,
    )
    cache.hidden_states.flush()
    unfinished.replace(path)


def load_hidden_state_cache(
    tokenized: "Dataset", state_indices: Sequence[int], hidden_size: int, folder: Path
) -> HiddenStateCache:
    """Open the states that `write_hidden_state_cache` has written, memory-mapped."""
    return HiddenStateCache(
        folder / _CACHE_FILE, token_lengths(tokenized), state_indices, hidden_size
    )
