"""From texts to batches of token ids, tokenised once and grouped by length."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Sampler

from kdcli import distributed
from kdcli.data import column_access, mmap_tables
from kdcli.data.dataset_loading import DatasetSplits
from kdcli.data.labels import label_arrays
from kdcli.errors import ModelError
from kdcli.recipe.data import TruncationMode
from kdcli.tasks import MULTI_LABEL, REGRESSION, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

TEACHER_LOGITS = "teacher_logits"
TEXT_INDEX = "text_of"  # of a window: which text it is of, from 0
_BATCHES_PER_SORTED_BLOCK = 50
# From so many rows on, the tokens lie on disk.
_MIN_ROWS_ON_DISK = 500_000
# Windows share a quarter of their tokens with the one before.
_WINDOW_OVERLAP_DIVISOR = 4
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
        return _tokenize_windows_with_slow_tokenizer(tokenizer, columns, max_length)
    if truncation == "windows":
        more = {"return_overflowing_tokens": True, "stride": max_length // _WINDOW_OVERLAP_DIVISOR}
        found = dict(tokenizer(*columns, truncation=True, max_length=max_length, **more))
        found[TEXT_INDEX] = found.pop("overflow_to_sample_mapping")
        return found
    tokenizer.truncation_side = TRUNCATION_SIDES.get(truncation, side)
    try:
        return dict(tokenizer(*columns, truncation=True, max_length=max_length))
    finally:
        tokenizer.truncation_side = side


def _tokenize_windows_with_slow_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", text_columns: Sequence[Sequence[str]], max_length: int
) -> dict[str, Any]:
    """The windows that a tokenizer written in Python can't give by itself."""
    if len(text_columns) > 1:
        raise ModelError(
            "data.truncate: windows of pairs need a fast tokenizer (tokenizer.json), and this is "
            f"a {type(tokenizer).__name__}.",
            "Use head, tail or both.",
        )
    room, overlap = (
        max_length - tokenizer.num_special_tokens_to_add(),
        max_length // _WINDOW_OVERLAP_DIVISOR,
    )
    found: dict[str, Any] = {}
    for place, text in enumerate(text_columns[0]):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, max(1, len(ids) - overlap), room - overlap):
            window = dict(tokenizer.prepare_for_model(ids[start : start + room]))
            for name, values in (window | {TEXT_INDEX: place}).items():
                found.setdefault(name, []).append(values)
    return found


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


def concat_per_text_columns(tokenized: "Dataset", per_text: "Dataset") -> "Dataset":
    """Encoded rows with what their texts have besides as more columns."""
    from datasets import concatenate_datasets

    if TEXT_INDEX in tokenized.column_names:
        per_text = per_text.select(tokenized[TEXT_INDEX])
    return concatenate_datasets([tokenized, per_text], axis=1)


def average_windows(row_values: np.ndarray, tokenized: "Dataset") -> np.ndarray:
    """What was found for each row, (rows, …), as the mean over each text's windows, (texts, …)."""
    if TEXT_INDEX not in tokenized.column_names:
        return row_values
    texts = np.asarray(tokenized[TEXT_INDEX])
    starts = np.flatnonzero(np.diff(texts, prepend=-1))
    counts = np.diff(np.append(starts, len(texts)))
    mean: np.ndarray = np.add.reduceat(row_values, starts, axis=0) / counts[:, None].astype(
        row_values.dtype
    )
    return mean


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


def sample_texts(split: "Dataset", count: int = 64) -> list[list[str]]:
    """Texts evenly spread over a split: a column, or two of pairs."""
    places = np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int)
    some = split.select(places)
    return [list(some[name]) for name in column_access.text_column_names(split)]


def encoding_to_rows(encoding: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """What `read` gives, text by text (or window by window)."""
    return [
        {name: column[i] for name, column in encoding.items()}
        for i in range(len(encoding["input_ids"]))
    ]


def length_sorted_batches(
    lengths: np.ndarray, batch_size: int, *, longest_first: bool = False, equal_length: bool = False
) -> list[np.ndarray]:
    """The rows' places in batches, sorted by length, so that little is padding.

    Args:
        lengths: Tokens in each row.
        batch_size: Rows in a batch, at most.
        longest_first: Whether the longest rows come first, not the shortest.
        equal_length: Whether all rows of a batch are of one length, so that nothing is padded.
    """
    order = np.argsort(-lengths if longest_first else lengths, kind="stable")
    ends = np.flatnonzero(np.diff(lengths[order])) + 1 if equal_length else ()
    return [
        run[start : start + batch_size]
        for run in np.split(order, ends)
        for start in range(0, len(run), batch_size)
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


def map_labels_to_model(
    tokenized: "Dataset", dataset_splits: DatasetSplits, model_labels: Sequence[str]
) -> "Dataset":
    """Replace `label` by `labels`, as the model's outputs have them.

    The id of its own label list; 0 or 1 for each of its labels; or a score. Where there is no
    `label`, all of them are missing: `task.missing`.
    """
    if "label" not in tokenized.column_names:
        return tokenized.add_column(
            "labels", _missing_labels(len(tokenized), len(model_labels), dataset_splits.task)
        )
    count = len(dataset_splits.label_names)
    there = label_arrays.count_labels(tokenized, dataset_splits.task, count)
    present = [name for name, texts in zip(dataset_splits.label_names, there, strict=True) if texts]
    to_model = dataset_splits.match_model_labels(model_labels, present)
    truth = dataset_splits.ground_truth_labels(tokenized, to_model, len(model_labels))
    rest = tokenized.remove_columns("label")
    if truth.ndim == 1:
        return rest.add_column("labels", truth)
    return rest.add_column("labels", _fixed_size_lists(truth.astype(np.int8)))


def _missing_labels(row_count: int, output_count: int, task: Task) -> Any:
    if task is MULTI_LABEL:
        return _fixed_size_lists(
            np.full((row_count, output_count), task.missing_label, dtype=np.int8)
        )
    return np.full(
        row_count, task.missing_label, dtype=np.float32 if task is REGRESSION else np.int64
    )


def labels_to_numpy(tokenized: "Dataset") -> np.ndarray:
    """What `with_model_labels` has written: (rows,), or (rows, labels)."""
    column = tokenized.select_columns("labels").with_format("arrow")[:]["labels"].combine_chunks()
    width = getattr(column.type, "list_size", None)
    return column.to_numpy() if width is None else column.flatten().to_numpy().reshape(-1, width)


def _fixed_size_lists(values: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


class PaddingCollator:
    """Pads rows of a batch to its longest, and stacks what has no length.

    Args:
        tokenizer: Knows the padding side, and what fills the gaps of other inputs than token ids.
        forward_argument_names: The names that the model's `forward` takes; other token columns are dropped.
        embedding_row_by_token_id: For each token id its row in the model's embedding table, where they differ.
        pad_token_id: The id that the model takes for padding; None is the tokenizer's.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        forward_argument_names: Sequence[str],
        embedding_row_by_token_id: torch.Tensor | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.forward_argument_names = set(forward_argument_names)
        self.embedding_row_by_token_id = embedding_row_by_token_id
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch: tokens (rows, longest), `labels` (rows,) or (rows, C), logits (rows, C)."""
        columns = [n for n in self.tokenizer.model_input_names if n in rows[0]]
        encoding = self.tokenizer.pad(
            {name: [row[name] for row in rows] for name in columns},
            return_tensors="pt",
            return_attention_mask=True,
        )
        if self.pad_token_id is not None:
            gaps = encoding["attention_mask"] == 0
            encoding["input_ids"] = encoding["input_ids"].masked_fill(gaps, self.pad_token_id)
        batch = {name: t for name, t in encoding.items() if name in self.forward_argument_names}
        if self.embedding_row_by_token_id is not None:
            batch["input_ids"] = self.embedding_row_by_token_id[batch["input_ids"]]
        for name in rows[0].keys() - {*columns, TEXT_INDEX}:
            batch[name] = torch.as_tensor(np.asarray([row[name] for row in rows]))
        return batch


def class_balanced_probabilities(labels: np.ndarray) -> np.ndarray:
    """For each row its share of the draws, so that each class is drawn as often, (rows,)."""
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[places])


def length_grouped_order(
    lengths: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    sampling_probabilities: np.ndarray | None = None,
) -> np.ndarray:
    """A random order in which the rows of a batch are about as long, so that little is padding.

    The rows are shuffled, every run of fifty batches is sorted by length, and the batches that
    this gives are shuffled. The order depends on seed and epoch alone: a run that was broken off
    goes on with the rows that it would have had.

    Args:
        lengths: Tokens in each row.
        batch_size: Rows in a batch.
        seed: Of the order.
        epoch: Counted from 0; each has an order of its own.
        sampling_probabilities: Draw so many rows with replacement, each by its share.

    Returns:
        The rows' places, (rows,).
    """
    random = np.random.default_rng([seed, epoch])
    count = len(lengths)
    order = (
        random.permutation(count)
        if sampling_probabilities is None
        else random.choice(count, count, p=sampling_probabilities)
    )
    run = batch_size * _BATCHES_PER_SORTED_BLOCK
    whole: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    for start in range(0, len(order), run):
        rows = order[start : start + run]
        # A short batch in the middle would shift all that follow: it goes last.
        spare = rows[: len(rows) % batch_size]
        rows = rows[len(spare) :]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        whole += np.split(rows, len(rows) // batch_size) if len(rows) else []
        rest.append(spare)
    return np.concatenate([whole[i] for i in random.permutation(len(whole))] + rest)


class DistributedBatchSampler(Sampler[list[int]]):
    """The batches of an epoch; of each the share that is this process's.

    Args:
        row_count: How many there are.
        batch_size: Rows in a batch, over all processes.
        epoch_order: Gives the order of the rows in the epoch that begins.
    """

    def __init__(
        self, row_count: int, batch_size: int, epoch_order: Callable[[], np.ndarray]
    ) -> None:
        self.row_count, self.batch_size, self.epoch_order = row_count, batch_size, epoch_order

    def __len__(self) -> int:
        return math.ceil(self.row_count / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.epoch_order()
        for start in range(0, self.row_count, self.batch_size):
            batch = order[start : start + self.batch_size]
            # Every second of rows sorted by length is as long as the others; and of a batch with
            # fewer rows than processes each takes all, as none may stand idle.
            alone = len(batch) < distributed.world_size()
            yield (
                batch if alone else batch[distributed.rank() :: distributed.world_size()]
            ).tolist()


def padding_fraction(lengths: np.ndarray, order: Sequence[int], batch_size: int) -> float:
    """The share of a pass's tokens that is padding, between 0 and 1."""
    total = sum(
        len(rows) * int(lengths[list(rows)].max())
        for rows in (order[i : i + batch_size] for i in range(0, len(order), batch_size))
    )
    return 1 - float(lengths.sum()) / total
