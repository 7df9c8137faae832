"""The teacher's hidden states of every text, on disk: computed once, read by every epoch."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kdcli.data.tokenization.tokenize import PaddingCollator, length_sorted_batches, token_lengths
from kdcli.models.padding import needs_equal_lengths
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
    """Hidden states of the rows of a data set, by place and row.

    Args:
        path: Their file: float32, (places, tokens of all rows, width).
        tokens: How many each row has.
        state_indices: Which of the teacher's hidden states they are: 0 is the embeddings' output, 1 that
            of the first layer.
        width: The teacher's.
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
        """A collator whose batches have the states as well; it reads each row's `row`."""

        def together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
            batch = collator(rows)
            return batch | self.padded_hidden_states(
                batch.pop(ROW_COLUMN).tolist(), batch["attention_mask"]
            )

        return together

    def padded_hidden_states(
        self, row_indices: Sequence[int], attention_mask: Tensor
    ) -> dict[str, Tensor]:
        """The states of a batch, each (batch, tokens, width), with zeros for padding.

        Args:
            row_indices: Their numbers.
            attention_mask: (batch, tokens), 1 where there is a token, on whichever side the padding is.
        """
        spans = [self.row_token_slice(row) for row in row_indices]
        found = {}
        for number, place in enumerate(self.state_indices):
            states = np.concatenate([self.hidden_states[number, span] for span in spans])
            padded = torch.zeros(*attention_mask.shape, states.shape[-1])
            padded[attention_mask.bool()] = torch.from_numpy(states)
            found[f"{_BATCH_KEY_PREFIX}{place}"] = padded
        return found

    def row_token_slice(self, row: int) -> slice:
        """Where a row's tokens are among those of all rows."""
        return slice(int(self.token_ends[row - 1]) if row else 0, int(self.token_ends[row]))


def hidden_states_from_batch(batch: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """The hidden states in a batch, by place."""
    return {
        int(n.removeprefix(_BATCH_KEY_PREFIX)): t
        for n, t in batch.items()
        if n.startswith(_BATCH_KEY_PREFIX)
    }


def cache_fits_on_disk(
    tokenized: "Dataset", state_indices: Sequence[int], hidden_size: int, folder: Path
) -> bool:
    """Whether the states would take less than half of what is free on the disk."""
    needed = 4 * len(state_indices) * int(token_lengths(tokenized).sum()) * hidden_size
    return needed < _MAX_SHARE_OF_FREE_DISK * shutil.disk_usage(folder).free


def write_hidden_state_cache(
    teacher: "PreTrainedModel",
    collator: PaddingCollator,
    tokenized: "Dataset",
    state_indices: Sequence[int],
    folder: Path,
    *,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Ask the teacher for its hidden states, unless they are in the folder already.

    Args:
        teacher: It is put in evaluation mode.
        collator: Of that model.
        tokenized: Encoded, with their numbers as `row`.
        state_indices: Which states.
        folder: That of this very fit, for what a run that goes on finds.
        advance: Told of rows done and rows in all.
    """
    path, tokens = folder / _CACHE_FILE, token_lengths(tokenized)
    if path.exists():
        return
    beside = path.with_suffix(".new")
    found = HiddenStateCache(beside, tokens, state_indices, teacher.config.hidden_size, "w+")
    teacher.eval()
    done = 0
    for batch in length_sorted_batches(
        tokens, _BATCH_SIZE, equal_length=needs_equal_lengths(teacher)
    ):
        some = tokenized.__getitems__(batch.tolist())
        inputs = {n: t.to(teacher.device) for n, t in collator(some).items() if n != ROW_COLUMN}
        with torch.inference_mode():
            hidden = forward_with_hidden(
                teacher, inputs, frozenset({"hidden_states"})
            ).hidden_states
        real = inputs["attention_mask"].bool()
        for number, place in enumerate(found.state_indices):
            states = torch.split(hidden[place][real], real.sum(1).tolist())
            for row, own in zip(some, states, strict=True):
                found.hidden_states[number, found.row_token_slice(row[ROW_COLUMN])] = (
                    own.float().cpu().numpy()
                )
        done += len(batch)
        advance(done, len(tokenized))
    found.hidden_states.flush()
    beside.replace(path)


def open_hidden_state_cache(
    tokenized: "Dataset", state_indices: Sequence[int], hidden_size: int, folder: Path
) -> HiddenStateCache:
    """The states as written, memory-mapped."""
    return HiddenStateCache(
        folder / _CACHE_FILE, token_lengths(tokenized), state_indices, hidden_size
    )
