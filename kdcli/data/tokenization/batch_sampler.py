"""Sample batches: grouped by length, balanced by class, shared among processes."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from kdcli import distributed

_BATCHES_PER_SORTED_BLOCK = 50


class DistributedBatchSampler(Sampler[list[int]]):
    """Sampler of an epoch's batches that gives each process its share of every batch.

    Args:
        row_count: The number of rows.
        batch_size: The number of rows in a batch, over all processes.
        epoch_order: Returns the order of the rows in the next epoch: row indices, (rows,).
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
            # Rows are sorted by length: taking every nth gives all processes about as many tokens.
            # No process may be idle: of a batch with fewer rows than processes, each takes all.
            too_small = len(batch) < distributed.world_size()
            yield (
                batch if too_small else batch[distributed.rank() :: distributed.world_size()]
            ).tolist()


def length_grouped_order(
    lengths: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    sampling_probabilities: np.ndarray | None = None,
) -> np.ndarray:
    """Random order in which the rows of a batch have similar lengths, so that little is padding.

    Rows are shuffled, each block of fifty batches is sorted by length, and the resulting batches
    are shuffled. The order depends on the seed and the epoch alone, so that a resumed run sees the
    rows that an uninterrupted one would see.

    Args:
        lengths: The number of tokens of each row, (rows,).
        batch_size: The number of rows in a batch.
        seed: Seed of the order.
        epoch: The epoch, from 0; each has its own order.
        sampling_probabilities: Probability of each row, (rows,), to draw as many rows with
            replacement. None takes each row once.

    Returns:
        Row indices, (rows,).
    """
    random = np.random.default_rng([seed, epoch])
    count = len(lengths)
    order = (
        random.permutation(count)
        if sampling_probabilities is None
        else random.choice(count, count, p=sampling_probabilities)
    )
    block = batch_size * _BATCHES_PER_SORTED_BLOCK
    full_batches: list[np.ndarray] = []
    leftovers: list[np.ndarray] = []
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        # A short batch in the middle would shift all later ones: these rows go last.
        leftover = rows[: len(rows) % batch_size]
        rows = rows[len(leftover) :]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        full_batches += np.split(rows, len(rows) // batch_size) if len(rows) else []
        leftovers.append(leftover)
    return np.concatenate(
        [full_batches[i] for i in random.permutation(len(full_batches))] + leftovers
    )


def length_sorted_batches(
    lengths: np.ndarray, batch_size: int, *, longest_first: bool = False, equal_length: bool = False
) -> list[np.ndarray]:
    """Batches of row indices sorted by length, so that little is padding.

    Args:
        lengths: The number of tokens of each row, (rows,).
        batch_size: The largest number of rows in a batch.
        longest_first: Whether the longest rows come first instead of the shortest.
        equal_length: Whether all rows of a batch have the same length, so that nothing is padded.
    """
    order = np.argsort(-lengths if longest_first else lengths, kind="stable")
    ends = np.flatnonzero(np.diff(lengths[order])) + 1 if equal_length else ()
    return [
        rows[start : start + batch_size]
        for rows in np.split(order, ends)
        for start in range(0, len(rows), batch_size)
    ]


def class_balanced_probabilities(labels: np.ndarray) -> np.ndarray:
    """Sampling probability of each row that makes all classes equally likely, (rows,)."""
    _, class_indices, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[class_indices])
