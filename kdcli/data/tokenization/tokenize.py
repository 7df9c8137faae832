"""From texts to batches of token ids, tokenised once and grouped by length."""

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

# From so many rows on, the tokens lie on disk.
_MIN_ROWS_ON_DISK = 500_000
_MAX_TOKENIZE_BATCH_ROWS = 1_000
# Where tokenizers cut.
TRUNCATION_SIDES: Mapping[TruncationMode | None, str] = {"head": "right", "tail": "left"}


def tokenize_texts(
    tokenizer: "PreTrainedTokenizerBase",
    text_columns: Sequence[Sequence[str]],
    max_length: int,
    truncation: TruncationMode | None = None,
) -> dict[str, Any]:
    """Texts, or pairs, as lists of tokens.

    Args:
        tokenizer: Of the model that will read them.
        text_columns: Their column; of pairs, both columns.
        max_length: Tokens to keep of a text.
        truncation: Which, of a longer one; None is as the tokenizer has it.

    Returns:
        What the tokenizer gives; of windows, a row for each, and `TEXT_OF` with the text's place.
    """
    columns = [*map(list, text_columns)]
    side = tokenizer.truncation_side
    if truncation == "both":
        whole = tokenizer(*columns, truncation=False, verbose=False)
        end = max_length // 2
        return {
            # The tokens that begin and end a text stay where they are.
            name: [
                row if len(row) <= max_length else row[: max_length - end] + row[-end:]
                for row in rows
            ]
            for name, rows in whole.items()
        }
    if truncation == "windows" and not tokenizer.is_fast:
        return tokenize_windows_with_slow_tokenizer(tokenizer, columns, max_length)
    if truncation == "windows":
        more = {"return_overflowing_tokens": True, "stride": max_length // WINDOW_OVERLAP_DIVISOR}
        found = dict(tokenizer(*columns, truncation=True, max_length=max_length, **more))
        found[TEXT_INDEX] = found.pop("overflow_to_sample_mapping")
        return found
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
    """Tokenise a split once.

    Args:
        split: With `text`, and `text_pair` for pairs.
        tokenizer: Of the model that will read it.
        max_length: Tokens to keep of a text.
        truncation: Which, of a longer one; None is as the tokenizer has it.

    Returns:
        A data set of the same rows in the same order, with `input_ids` (and what else the
        tokenizer's model reads) as lists, and `label` where the split has one. Of windows, one
        row for each, those of a text side by side, and `TEXT_OF`.
    """
    names = [name for name in tokenizer.model_input_names if name != "attention_mask"]

    def tokenise(rows: Mapping[str, Sequence[str]], places: Sequence[int]) -> dict[str, Any]:
        encoding = tokenize_texts(tokenizer, [rows[name] for name in texts], max_length, truncation)
        found = {name: encoding[name] for name in names if name in encoding}
        if TEXT_INDEX in encoding:
            found[TEXT_INDEX] = [places[place] for place in encoding[TEXT_INDEX]]
        return found

    texts = column_access.text_column_names(split)
    windows = truncation == "windows"
    how: dict[str, Any] = {"batched": True, "with_indices": True}
    # What a text has besides is given to each of its windows.
    how["remove_columns"] = split.column_names if windows else texts
    # A tokenizer reads to the end even of a text that is cut.
    how["batch_size"] = column_access.memory_bounded_batch_size(
        split.select_columns(texts), _MAX_TOKENIZE_BATCH_ROWS
    )
    if len(split) < _MIN_ROWS_ON_DISK:
        found = split.map(tokenise, keep_in_memory=True, **how)
    else:
        file = mmap_tables.create_cache_file()
        try:
            found = split.map(
                tokenise, cache_file_name=str(file), load_from_cache_file=False, **how
            )
        finally:
            mmap_tables.unlink_cache_file(file)
    rest = [name for name in split.column_names if name not in texts]
    return concat_per_text_columns(found, split.select_columns(rest)) if windows and rest else found


def count_truncated_texts(
    split: "Dataset", tokenized: "Dataset", tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> int:
    """How many texts are longer than the limit."""
    if TEXT_INDEX in tokenized.column_names:
        return int((np.bincount(tokenized[TEXT_INDEX]) > 1).sum())
    full = np.flatnonzero(token_lengths(tokenized) >= max_length)
    if not len(full):
        return 0
    cut = 0
    for texts in column_access.iterate_column_batches(
        split.select(full), *column_access.text_column_names(split)
    ):
        whole = tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
        cut += sum(len(ids) > max_length for ids in whole)
    return cut


def encoding_to_rows(encoding: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """What `read` gives, text by text (or window by window)."""
    return [
        {name: column[i] for name, column in encoding.items()}
        for i in range(len(encoding["input_ids"]))
    ]


def token_lengths(tokenized: "Dataset") -> np.ndarray:
    """The number of tokens of each row."""
    import pyarrow.compute as pc

    # Through Arrow's offsets: no row becomes a Python list.
    return np.asarray(pc.list_value_length(_input_ids_column(tokenized)))


def distinct_token_ids(tokenized: "Dataset") -> np.ndarray:
    """The token ids that occur, each once, in order."""
    import pyarrow.compute as pc

    found = (np.unique(pc.list_flatten(chunk)) for chunk in _input_ids_column(tokenized).chunks)
    return np.unique(np.concatenate([*found, np.zeros(0, dtype=np.int64)]))


def _input_ids_column(tokenized: "Dataset") -> Any:
    return tokenized.select_columns("input_ids").with_format("arrow")[:]["input_ids"]
