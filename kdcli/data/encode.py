"""From texts to batches of token ids, tokenised once and grouped by length."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Sampler

from kdcli import processes
from kdcli.data import disk, pieces, targets
from kdcli.data.source import Corpus
from kdcli.errors import ModelError
from kdcli.recipe.data import Keep
from kdcli.tasks import MULTI_LABEL, REGRESSION, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

TEACHER_LOGITS = "teacher_logits"
TEXT_OF = "text_of"  # of a window: which text it is of, from 0
_BATCHES_SORTED_TOGETHER = 50
# From so many rows on, the tokens lie on disk.
_MANY = 500_000
# Windows share a quarter of their tokens with the one before.
_OVERLAP = 4
_TOKENISED_TOGETHER = 1_000
# Where tokenizers cut.
SIDES: Mapping[Keep | None, str] = {"head": "right", "tail": "left"}


def read(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[Sequence[str]],
    limit: int,
    keep: Keep | None = None,
) -> dict[str, Any]:
    """Texts, or pairs, as lists of tokens.

    Args:
        tokenizer: Of the model that will read them.
        texts: Their column; of pairs, both columns.
        limit: Tokens to keep of a text.
        keep: Which, of a longer one; None is as the tokenizer has it.

    Returns:
        What the tokenizer gives; of windows, a row for each, and `TEXT_OF` with the text's place.
    """
    columns = [*map(list, texts)]
    side = tokenizer.truncation_side
    if keep == "both":
        whole = tokenizer(*columns, truncation=False, verbose=False)
        end = limit // 2
        return {
            # The tokens that begin and end a text stay where they are.
            name: [row if len(row) <= limit else row[: limit - end] + row[-end:] for row in rows]
            for name, rows in whole.items()
        }
    if keep == "windows" and not tokenizer.is_fast:
        return _windows(tokenizer, columns, limit)
    if keep == "windows":
        more = {"return_overflowing_tokens": True, "stride": limit // _OVERLAP}
        found = dict(tokenizer(*columns, truncation=True, max_length=limit, **more))
        found[TEXT_OF] = found.pop("overflow_to_sample_mapping")
        return found
    tokenizer.truncation_side = SIDES.get(keep, side)
    try:
        return dict(tokenizer(*columns, truncation=True, max_length=limit))
    finally:
        tokenizer.truncation_side = side


def _windows(
    tokenizer: "PreTrainedTokenizerBase", columns: Sequence[Sequence[str]], limit: int
) -> dict[str, Any]:
    """The windows that a tokenizer written in Python can't give by itself."""
    if len(columns) > 1:
        raise ModelError(
            "data.truncate: windows of pairs need a fast tokenizer (tokenizer.json), and this is "
            f"a {type(tokenizer).__name__}.",
            "Use head, tail or both.",
        )
    room, overlap = limit - tokenizer.num_special_tokens_to_add(), limit // _OVERLAP
    found: dict[str, Any] = {}
    for place, text in enumerate(columns[0]):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, max(1, len(ids) - overlap), room - overlap):
            window = dict(tokenizer.prepare_for_model(ids[start : start + room]))
            for name, values in (window | {TEXT_OF: place}).items():
                found.setdefault(name, []).append(values)
    return found


def encode(
    split: "Dataset", tokenizer: "PreTrainedTokenizerBase", limit: int, keep: Keep | None = None
) -> "Dataset":
    """Tokenise a split once.

    Args:
        split: With `text`, and `text_pair` for pairs.
        tokenizer: Of the model that will read it.
        limit: Tokens to keep of a text.
        keep: Which, of a longer one; None is as the tokenizer has it.

    Returns:
        A data set of the same rows in the same order, with `input_ids` (and what else the
        tokenizer's model reads) as lists, and `label` where the split has one. Of windows, one
        row for each, those of a text side by side, and `TEXT_OF`.
    """
    names = [name for name in tokenizer.model_input_names if name != "attention_mask"]

    def tokenise(rows: Mapping[str, Sequence[str]], places: Sequence[int]) -> dict[str, Any]:
        encoding = read(tokenizer, [rows[name] for name in texts], limit, keep)
        found = {name: encoding[name] for name in names if name in encoding}
        if TEXT_OF in encoding:
            found[TEXT_OF] = [places[place] for place in encoding[TEXT_OF]]
        return found

    texts = pieces.text_columns(split)
    windows = keep == "windows"
    how: dict[str, Any] = {"batched": True, "with_indices": True}
    # What a text has besides is given to each of its windows.
    how["remove_columns"] = split.column_names if windows else texts
    # A tokenizer reads to the end even of a text that is cut.
    how["batch_size"] = pieces.rows_at_a_time(split.select_columns(texts), _TOKENISED_TOGETHER)
    if len(split) < _MANY:
        found = split.map(tokenise, keep_in_memory=True, **how)
    else:
        file = disk.new_file()
        try:
            found = split.map(
                tokenise, cache_file_name=str(file), load_from_cache_file=False, **how
            )
        finally:
            disk.forget(file)
    rest = [name for name in split.column_names if name not in texts]
    return beside(found, split.select_columns(rest)) if windows and rest else found


def beside(encoded: "Dataset", of_texts: "Dataset") -> "Dataset":
    """Encoded rows with what their texts have besides as more columns."""
    from datasets import concatenate_datasets

    if TEXT_OF in encoded.column_names:
        of_texts = of_texts.select(encoded[TEXT_OF])
    return concatenate_datasets([encoded, of_texts], axis=1)


def by_text(found: np.ndarray, encoded: "Dataset") -> np.ndarray:
    """What was found for each row, (rows, …), as the mean over each text's windows, (texts, …)."""
    if TEXT_OF not in encoded.column_names:
        return found
    texts = np.asarray(encoded[TEXT_OF])
    starts = np.flatnonzero(np.diff(texts, prepend=-1))
    counts = np.diff(np.append(starts, len(texts)))
    mean: np.ndarray = np.add.reduceat(found, starts, axis=0) / counts[:, None].astype(found.dtype)
    return mean


def count_truncated(
    split: "Dataset", encoded: "Dataset", tokenizer: "PreTrainedTokenizerBase", limit: int
) -> int:
    """How many texts are longer than the limit."""
    if TEXT_OF in encoded.column_names:
        return int((np.bincount(encoded[TEXT_OF]) > 1).sum())
    full = np.flatnonzero(lengths(encoded) >= limit)
    if not len(full):
        return 0
    cut = 0
    for texts in pieces.lists(split.select(full), *pieces.text_columns(split)):
        whole = tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
        cut += sum(len(ids) > limit for ids in whole)
    return cut


def sample_columns(split: "Dataset", texts: int = 64) -> list[list[str]]:
    """Texts evenly spread over a split: a column, or two of pairs."""
    places = np.linspace(0, len(split) - 1, min(texts, len(split))).round().astype(int)
    some = split.select(places)
    return [list(some[name]) for name in pieces.text_columns(split)]


def token_rows(encoding: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """What `read` gives, text by text (or window by window)."""
    return [
        {name: column[i] for name, column in encoding.items()}
        for i in range(len(encoding["input_ids"]))
    ]


def batches_of_like_length(
    lengths: np.ndarray, batch_size: int, *, longest_first: bool = False, equal: bool = False
) -> list[np.ndarray]:
    """The rows' places in batches, sorted by length, so that little is padding.

    Args:
        lengths: Tokens in each row.
        batch_size: Rows in a batch, at most.
        longest_first: Whether the longest rows come first, not the shortest.
        equal: Whether all rows of a batch are of one length, so that nothing is padded.
    """
    order = np.argsort(-lengths if longest_first else lengths, kind="stable")
    ends = np.flatnonzero(np.diff(lengths[order])) + 1 if equal else ()
    return [
        run[start : start + batch_size]
        for run in np.split(order, ends)
        for start in range(0, len(run), batch_size)
    ]


def lengths(encoded: "Dataset") -> np.ndarray:
    """The number of tokens of each row."""
    import pyarrow.compute as pc

    # Through Arrow's offsets: no row becomes a Python list.
    return np.asarray(pc.list_value_length(_token_column(encoded)))


def token_ids(encoded: "Dataset") -> np.ndarray:
    """The token ids that occur, each once, in order."""
    import pyarrow.compute as pc

    found = (np.unique(pc.list_flatten(chunk)) for chunk in _token_column(encoded).chunks)
    return np.unique(np.concatenate([*found, np.zeros(0, dtype=np.int64)]))


def _token_column(encoded: "Dataset") -> Any:
    return encoded.select_columns("input_ids").with_format("arrow")[:]["input_ids"]


def with_model_labels(encoded: "Dataset", corpus: Corpus, model: Sequence[str]) -> "Dataset":
    """Replace `label` by `labels`, as the model's outputs have them.

    The id of its own label list; 0 or 1 for each of its labels; or a score. Where there is no
    `label`, all of them are missing: `task.missing`.
    """
    if "label" not in encoded.column_names:
        return encoded.add_column("labels", _missing(len(encoded), len(model), corpus.task))
    count = len(corpus.labels)
    there = targets.counts(encoded, corpus.task, count)
    present = [name for name, texts in zip(corpus.labels, there, strict=True) if texts]
    to_model = corpus.match(model, present)
    truth = corpus.truth(encoded, to_model, len(model))
    rest = encoded.remove_columns("label")
    if truth.ndim == 1:
        return rest.add_column("labels", truth)
    return rest.add_column("labels", _fixed(truth.astype(np.int8)))


def _missing(rows: int, outputs: int, task: Task) -> Any:
    if task is MULTI_LABEL:
        return _fixed(np.full((rows, outputs), task.missing, dtype=np.int8))
    return np.full(rows, task.missing, dtype=np.float32 if task is REGRESSION else np.int64)


def labels_of(encoded: "Dataset") -> np.ndarray:
    """What `with_model_labels` has written: (rows,), or (rows, labels)."""
    column = encoded.select_columns("labels").with_format("arrow")[:]["labels"].combine_chunks()
    width = getattr(column.type, "list_size", None)
    return column.to_numpy() if width is None else column.flatten().to_numpy().reshape(-1, width)


def _fixed(values: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


class Collator:
    """Pads rows of a batch to its longest, and stacks what has no length.

    Args:
        tokenizer: Knows the padding side, and what fills the gaps of other inputs than token ids.
        inputs: The names that the model's `forward` takes; other token columns are dropped.
        place: For each token id its row in the model's embedding table, where they differ.
        pad_token_id: The id that the model takes for padding; None is the tokenizer's.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        inputs: Sequence[str],
        place: torch.Tensor | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.inputs = set(inputs)
        self.place = place
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
        batch = {name: t for name, t in encoding.items() if name in self.inputs}
        if self.place is not None:
            batch["input_ids"] = self.place[batch["input_ids"]]
        for name in rows[0].keys() - {*columns, TEXT_OF}:
            batch[name] = torch.as_tensor(np.asarray([row[name] for row in rows]))
        return batch


def equal_shares(labels: np.ndarray) -> np.ndarray:
    """For each row its share of the draws, so that each class is drawn as often, (rows,)."""
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[places])


def like_lengths(
    lengths: np.ndarray, batch_size: int, seed: int, epoch: int, shares: np.ndarray | None = None
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
        shares: Draw so many rows with replacement, each by its share.

    Returns:
        The rows' places, (rows,).
    """
    random = np.random.default_rng([seed, epoch])
    count = len(lengths)
    order = random.permutation(count) if shares is None else random.choice(count, count, p=shares)
    run = batch_size * _BATCHES_SORTED_TOGETHER
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


class Batches(Sampler[list[int]]):
    """The batches of an epoch; of each the share that is this process's.

    Args:
        rows: How many there are.
        batch_size: Rows in a batch, over all processes.
        order: Gives the order of the rows in the epoch that begins.
    """

    def __init__(self, rows: int, batch_size: int, order: Callable[[], np.ndarray]) -> None:
        self.rows, self.batch_size, self.order = rows, batch_size, order

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order()
        for start in range(0, self.rows, self.batch_size):
            batch = order[start : start + self.batch_size]
            # Every second of rows sorted by length is as long as the others; and of a batch with
            # fewer rows than processes each takes all, as none may stand idle.
            alone = len(batch) < processes.count()
            yield (batch if alone else batch[processes.place() :: processes.count()]).tolist()


def padding_share(lengths: np.ndarray, order: Sequence[int], batch_size: int) -> float:
    """The share of a pass's tokens that is padding, between 0 and 1."""
    total = sum(
        len(rows) * int(lengths[list(rows)].max())
        for rows in (order[i : i + batch_size] for i in range(0, len(order), batch_size))
    )
    return 1 - float(lengths.sum()) / total
