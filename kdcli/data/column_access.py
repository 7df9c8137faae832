"""Columns of a split in batches, since texts may not fit in memory."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

# Describes where a row stands (file and line, say), by its index from 0.
RowLocator = Callable[[int], str]

# The columns of a loaded split: the text, and the second text of pairs.
TEXT_COLUMNS = ("text", "text_pair")
_MAX_BATCH_ROWS = 10_000
_MAX_BATCH_BYTES = 4_000_000


def iterate_column_batches(split: "Dataset", *columns: str) -> Iterator[tuple[list[Any], ...]]:
    """Iterate over columns as lists of Python values, in batches that bound memory."""
    selected = split.select_columns(list(columns)).with_format("arrow")
    for rows in selected.iter(memory_bounded_batch_size(selected, _MAX_BATCH_ROWS)):
        for batch in _split_large_table(rows):
            yield tuple(batch[column].to_pylist() for column in columns)


def memory_bounded_batch_size(split: "Dataset", max_rows: int) -> int:
    """The number of rows of a split that take a few MB, between 1 and `max_rows`."""
    row_bytes = split.data.nbytes / max(1, split.data.num_rows)
    return int(min(max_rows, max(1, _MAX_BATCH_BYTES // max(1, row_bytes))))


def _split_large_table(rows: "pa.Table") -> "Iterator[pa.Table]":
    """Halve a table until each part takes a few MB: some rows are longer than most."""
    if rows.num_rows < 2 or rows.nbytes <= _MAX_BATCH_BYTES:
        yield rows
        return
    half = rows.num_rows // 2
    for part in (rows.slice(0, half), rows.slice(half)):
        yield from _split_large_table(part)


def iterate_column_values(split: "Dataset", column: str) -> Iterator[Any]:
    """Iterate over the values of a column."""
    for (piece,) in iterate_column_batches(split, column):
        yield from piece


def text_column_names(split: "Dataset") -> list[str]:
    """The text columns of a split: `text`, and `text_pair` for pairs."""
    return [name for name in TEXT_COLUMNS if name in split.column_names]


def get_text_tuples(split: "Dataset") -> list[tuple[str, ...]]:
    """Each row's text, or pair of texts."""
    # Read through Arrow: row by row takes a hundred times as long.
    table = split.select_columns(text_column_names(split)).with_format("arrow")[:]
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def label_ids(split: "Dataset") -> np.ndarray:
    """Label ids of a split, int32, (rows,)."""
    column = split.select_columns("label").with_format("arrow")
    batches = [piece["label"].to_numpy().astype(np.int32) for piece in column.iter(_MAX_BATCH_ROWS)]
    return np.concatenate(batches) if batches else np.zeros(0, dtype=np.int32)


def multi_hot_labels(split: "Dataset", label_count: int) -> np.ndarray:
    """Lists of label ids as a multi-hot array, bool, (rows, labels)."""
    multi_hot, done = np.zeros((len(split), label_count), dtype=bool), 0
    for batch in split.select_columns("label").with_format("arrow").iter(_MAX_BATCH_ROWS):
        rows, values = explode_lists(batch["label"])
        multi_hot[done + rows, values.to_numpy(zero_copy_only=False)] = True
        done += len(batch)
    return multi_hot


def explode_lists(lists: "pa.ChunkedArray") -> tuple[np.ndarray, "pa.ChunkedArray"]:
    """Explode a column of lists into row indices, int64, (items,), and items."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    return np.repeat(np.arange(len(lengths)), lengths), pc.list_flatten(lists)


def distinct_list_labels(split: "Dataset") -> set[Any]:
    """The distinct items of a column of label lists."""
    import pyarrow.compute as pc

    pieces = split.select_columns("label").with_format("arrow").iter(_MAX_BATCH_ROWS)
    return {
        item for piece in pieces for item in pc.unique(explode_lists(piece["label"])[1]).to_pylist()
    }


def regression_scores(split: "Dataset") -> np.ndarray:
    """Get the scores of a split for regression, float32, (rows,)."""
    column = split.select_columns("label").with_format("arrow")
    batches = [
        piece["label"].to_numpy().astype(np.float32) for piece in column.iter(_MAX_BATCH_ROWS)
    ]
    return np.concatenate(batches) if batches else np.zeros(0, dtype=np.float32)


def map_column_to_ids(split: "Dataset", column: str, ids: Mapping[Any, int]) -> np.ndarray:
    """Map the values of a column to ids, int64, (rows,); `ids` has every value that occurs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column_of = split.select_columns(column).with_format("arrow")
    known, numbers = None, np.fromiter(ids.values(), dtype=np.int64)
    batches = []
    for batch in column_of.iter(_MAX_BATCH_ROWS):
        known = pa.array([*ids], batch[column].type) if known is None else known
        batches.append(numbers[pc.index_in(batch[column], value_set=known).to_numpy()])
    return np.concatenate(batches) if batches else np.zeros(0, dtype=np.int64)


def sample_rows_evenly(split: "Dataset", count: int) -> "Dataset":
    """Select `count` rows spread evenly over a split; all rows if it has no more."""
    if len(split) <= count:
        return split
    return split.select(np.linspace(0, len(split) - 1, count).astype(np.int64))


def sample_texts(split: "Dataset", count: int = 64) -> list[list[str]]:
    """Sample texts spread evenly over a split: one list of texts, or two for pairs."""
    indices = np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int)
    sample = split.select(indices)
    return [list(sample[name]) for name in text_column_names(split)]
