"""Order and composition of batches: grouped by length, balanced by class, shared by processes."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from kdcli import distributed

_BATCHES_PER_SORTED_BLOCK = 50


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


def class_balanced_probabilities(labels: np.ndarray) -> np.ndarray:
    """For each row its share of the draws, so that each class is drawn as often, (rows,)."""
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[places])
