"""Windows of long texts, and the way back to one row for each text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.errors import ModelError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

TEXT_INDEX = "text_of"  # the column with the index of a window's text, from 0
# A window shares a quarter of its length with the one before.
WINDOW_OVERLAP_DIVISOR = 4


def tokenize_windows_with_slow_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", text_columns: Sequence[Sequence[str]], max_length: int
) -> dict[str, Any]:
    """Cut texts into windows for a tokenizer written in Python, which can't do it itself.

    Args:
        tokenizer: The tokenizer.
        text_columns: One list of texts.
        max_length: The number of tokens in a window, special tokens included.

    Returns:
        The tokenizer's inputs, one row for each window, and `TEXT_INDEX`.

    Raises:
        ModelError: There are two lists: pairs of texts.
    """
    if len(text_columns) > 1:
        raise ModelError(
            "data.truncation: windows of pairs need a fast tokenizer (tokenizer.json); "
            f"{type(tokenizer).__name__} is none.",
            "Use head, tail or both.",
        )
    room, overlap = (
        max_length - tokenizer.num_special_tokens_to_add(),
        max_length // WINDOW_OVERLAP_DIVISOR,
    )
    columns: dict[str, Any] = {}
    for text_index, text in enumerate(text_columns[0]):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, max(1, len(ids) - overlap), room - overlap):
            window = dict(tokenizer.prepare_for_model(ids[start : start + room]))
            for name, values in (window | {TEXT_INDEX: text_index}).items():
                columns.setdefault(name, []).append(values)
    return columns


def concat_per_text_columns(tokenized: "Dataset", per_text: "Dataset") -> "Dataset":
    """Add columns of the texts, such as labels, to tokenized rows (or windows) of these texts."""
    from datasets import concatenate_datasets

    if TEXT_INDEX in tokenized.column_names:
        per_text = per_text.select(tokenized[TEXT_INDEX])
    return concatenate_datasets([tokenized, per_text], axis=1)


def average_windows(row_values: np.ndarray, tokenized: "Dataset") -> np.ndarray:
    """Average row values, (rows, …), over the windows of each text, (texts, …)."""
    if TEXT_INDEX not in tokenized.column_names:
        return row_values
    texts = np.asarray(tokenized[TEXT_INDEX])
    starts = np.flatnonzero(np.diff(texts, prepend=-1))
    counts = np.diff(np.append(starts, len(texts)))
    mean: np.ndarray = np.add.reduceat(row_values, starts, axis=0) / counts[:, None].astype(
        row_values.dtype
    )
    return mean
