"""Tokenization of whole splits, once before training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data import column_access, mmap_tables
from kdcli.data.tokenization.windows import (
    TEXT_INDEX,
    WINDOW_OVERLAP_DIVISOR,
    concat_per_text_columns,
    tokenize_windows_with_slow_tokenizer,
)
from kdcli.recipe.data import TruncationMode

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# Splits of at least this size are tokenized into a file instead of memory.
_MIN_ROWS_ON_DISK = 500_000
_MAX_TOKENIZE_BATCH_ROWS = 1_000
# The `truncation_side` of a tokenizer.
TRUNCATION_SIDES: Mapping[TruncationMode | None, str] = {"head": "right", "tail": "left"}


def tokenize_texts(
    tokenizer: "PreTrainedTokenizerBase",
    text_columns: Sequence[Sequence[str]],
    max_length: int,
    truncation: TruncationMode | None = None,
) -> dict[str, Any]:
    """Tokenize texts, or pairs of texts, with truncation.

    Args:
        tokenizer: The tokenizer of the model that reads the texts.
        text_columns: One list of texts; for pairs, two lists of the same length.
        max_length: The largest number of tokens to keep of a text, special tokens included.
        truncation: Which tokens of a longer text to keep. None keeps the tokenizer's default.

    Returns:
        The tokenizer's output: lists of token ids and of its other inputs. With `windows`, one row
        for each window, and `TEXT_INDEX`: the index of the window's text.

    Raises:
        ModelError: Windows of pairs are asked of a tokenizer that is written in Python.
    """
    columns = [*map(list, text_columns)]
    if truncation == "both":
        untruncated = tokenizer(*columns, truncation=False, verbose=False)
        tail = max_length // 2
        return {
            # Cutting the middle keeps the special tokens at both ends.
            name: [
                row if len(row) <= max_length else row[: max_length - tail] + row[-tail:]
                for row in rows
            ]
            for name, rows in untruncated.items()
        }
    if truncation == "windows" and not tokenizer.is_fast:
        return tokenize_windows_with_slow_tokenizer(tokenizer, columns, max_length)
    if truncation == "windows":
        overlap = max_length // WINDOW_OVERLAP_DIVISOR
        encoding = dict(
            tokenizer(
                *columns,
                truncation=True,
                max_length=max_length,
                return_overflowing_tokens=True,
                stride=overlap,
            )
        )
        encoding[TEXT_INDEX] = encoding.pop("overflow_to_sample_mapping")
        return encoding
    side = tokenizer.truncation_side
    tokenizer.truncation_side = TRUNCATION_SIDES.get(truncation, side)
    try:
        return dict(tokenizer(*columns, truncation=True, max_length=max_length))
    finally:
        tokenizer.truncation_side = side


def tokenize_dataset(
    split: "Dataset",
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    truncation: TruncationMode | None = None,
) -> "Dataset":
    """Tokenize all texts of a split.

    Args:
        split: The split, with `text`, and `text_pair` for pairs.
        tokenizer: The tokenizer of the model that reads the texts.
        max_length: The largest number of tokens to keep of a text, special tokens included.
        truncation: Which tokens of a longer text to keep. None keeps the tokenizer's default.

    Returns:
        A dataset with the same rows in the same order: `input_ids` and the model's other inputs as
        lists, and the split's columns other than texts. With `windows`, one row for each window;
        the windows of a text follow each other, and `TEXT_INDEX` names the text.
    """
    names = [name for name in tokenizer.model_input_names if name != "attention_mask"]

    def tokenize_batch(
        rows: Mapping[str, Sequence[str]], row_indices: Sequence[int]
    ) -> dict[str, Any]:
        encoding = tokenize_texts(tokenizer, [rows[name] for name in texts], max_length, truncation)
        columns = {name: encoding[name] for name in names if name in encoding}
        if TEXT_INDEX in encoding:
            columns[TEXT_INDEX] = [row_indices[index] for index in encoding[TEXT_INDEX]]
        return columns

    texts = column_access.text_column_names(split)
    windows = truncation == "windows"
    map_options: dict[str, Any] = {"batched": True, "with_indices": True}
    # Other columns are added afterwards: each window gets those of its text.
    map_options["remove_columns"] = split.column_names if windows else texts
    # A tokenizer reads a text to its end even if it truncates it.
    map_options["batch_size"] = column_access.memory_bounded_batch_size(
        split.select_columns(texts), _MAX_TOKENIZE_BATCH_ROWS
    )
    if len(split) < _MIN_ROWS_ON_DISK:
        tokenized = split.map(tokenize_batch, keep_in_memory=True, **map_options)
    else:
        file = mmap_tables.create_cache_file()
        try:
            tokenized = split.map(
                tokenize_batch,
                cache_file_name=str(file),
                load_from_cache_file=False,
                **map_options,
            )
        finally:
            mmap_tables.unlink_cache_file(file)
    other_columns = [name for name in split.column_names if name not in texts]
    if windows and other_columns:
        return concat_per_text_columns(tokenized, split.select_columns(other_columns))
    return tokenized


def count_truncated_texts(
    split: "Dataset", tokenized: "Dataset", tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> int:
    """Count the texts of a split that have more than `max_length` tokens."""
    if TEXT_INDEX in tokenized.column_names:
        return int((np.bincount(tokenized[TEXT_INDEX]) > 1).sum())
    full = np.flatnonzero(token_lengths(tokenized) >= max_length)
    if not len(full):
        return 0
    count = 0
    for texts in column_access.iterate_column_batches(
        split.select(full), *column_access.text_column_names(split)
    ):
        untruncated = tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
        count += sum(len(ids) > max_length for ids in untruncated)
    return count


def encoding_to_rows(encoding: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Turn columns of `tokenize_texts` into one dict for each text (or window)."""
    return [
        {name: column[i] for name, column in encoding.items()}
        for i in range(len(encoding["input_ids"]))
    ]


def token_lengths(tokenized: "Dataset") -> np.ndarray:
    """The number of tokens of each row, (rows,)."""
    import pyarrow.compute as pc

    # Through Arrow's offsets: no row becomes a Python list.
    return np.asarray(pc.list_value_length(_input_ids_column(tokenized)))


def distinct_token_ids(tokenized: "Dataset") -> np.ndarray:
    """The distinct token ids that occur, sorted, (ids,)."""
    import pyarrow.compute as pc

    ids = (np.unique(pc.list_flatten(chunk)) for chunk in _input_ids_column(tokenized).chunks)
    return np.unique(np.concatenate([*ids, np.zeros(0, dtype=np.int64)]))


def _input_ids_column(tokenized: "Dataset") -> Any:
    return tokenized.select_columns("input_ids").with_format("arrow")[:]["input_ids"]
