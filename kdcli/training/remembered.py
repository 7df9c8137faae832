"""The teacher's hidden states of every text, on disk: computed once, read by every epoch."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kdcli.data.encode import Collator, batches_of_like_length, lengths
from kdcli.models.padding import needs_equal_lengths
from kdcli.training.states import tell

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

ROW = "row"
_FILE = "teacher-hidden.f32"
_PREFIX = "teacher_hidden_"
_BATCH_SIZE = 64
_SHARE_OF_DISK = 0.5


class Remembered:
    """Hidden states of the rows of a data set, by place and row.

    Args:
        path: Their file: float32, (places, tokens of all rows, width).
        tokens: How many each row has.
        places: Which of the teacher's hidden states they are: 0 is the embeddings' output, 1 that
            of the first layer.
        width: The teacher's.
    """

    def __init__(
        self, path: Path, tokens: np.ndarray, places: Sequence[int], width: int, mode: str = "r"
    ) -> None:
        self.places, self.ends = tuple(places), np.cumsum(tokens)
        shape = (len(self.places), int(self.ends[-1]), width)
        self.states = np.memmap(path, np.float32, mode, shape=shape)  # type: ignore[call-overload]

    def added_to(self, collate: Collator) -> Callable[[Sequence[Mapping[str, Any]]], Any]:
        """A collator whose batches have the states as well; it reads each row's `row`."""

        def together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
            batch = collate(rows)
            return batch | self.batch(batch.pop(ROW).tolist(), batch["attention_mask"])

        return together

    def batch(self, rows: Sequence[int], mask: Tensor) -> dict[str, Tensor]:
        """The states of a batch, each (batch, tokens, width), with zeros for padding.

        Args:
            rows: Their numbers.
            mask: (batch, tokens), 1 where there is a token, on whichever side the padding is.
        """
        spans = [self.span(row) for row in rows]
        found = {}
        for number, place in enumerate(self.places):
            states = np.concatenate([self.states[number, span] for span in spans])
            padded = torch.zeros(*mask.shape, states.shape[-1])
            padded[mask.bool()] = torch.from_numpy(states)
            found[f"{_PREFIX}{place}"] = padded
        return found

    def span(self, row: int) -> slice:
        """Where a row's tokens are among those of all rows."""
        return slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))


def told(inputs: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """The hidden states in a batch, by place."""
    return {int(n.removeprefix(_PREFIX)): t for n, t in inputs.items() if n.startswith(_PREFIX)}


def fits(rows: "Dataset", places: Sequence[int], width: int, folder: Path) -> bool:
    """Whether the states would take less than half of what is free on the disk."""
    needed = 4 * len(places) * int(lengths(rows).sum()) * width
    return needed < _SHARE_OF_DISK * shutil.disk_usage(folder).free


def write(
    teacher: "PreTrainedModel",
    collate: Collator,
    rows: "Dataset",
    places: Sequence[int],
    folder: Path,
    *,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Ask the teacher for its hidden states, unless they are in the folder already.

    Args:
        teacher: It is put in evaluation mode.
        collate: Of that model.
        rows: Encoded, with their numbers as `row`.
        places: Which states.
        folder: That of this very fit, for what a run that goes on finds.
        advance: Told of rows done and rows in all.
    """
    path, tokens = folder / _FILE, lengths(rows)
    if path.exists():
        return
    beside = path.with_suffix(".new")
    found = Remembered(beside, tokens, places, teacher.config.hidden_size, "w+")
    teacher.eval()
    done = 0
    for batch in batches_of_like_length(tokens, _BATCH_SIZE, equal=needs_equal_lengths(teacher)):
        some = rows.__getitems__(batch.tolist())
        inputs = {n: t.to(teacher.device) for n, t in collate(some).items() if n != ROW}
        with torch.inference_mode():
            hidden = tell(teacher, inputs, frozenset({"hidden"})).hidden
        real = inputs["attention_mask"].bool()
        for number, place in enumerate(found.places):
            states = torch.split(hidden[place][real], real.sum(1).tolist())
            for row, own in zip(some, states, strict=True):
                found.states[number, found.span(row[ROW])] = own.float().cpu().numpy()
        done += len(batch)
        advance(done, len(rows))
    found.states.flush()
    beside.replace(path)


def read(rows: "Dataset", places: Sequence[int], width: int, folder: Path) -> Remembered:
    """The states as written, memory-mapped."""
    return Remembered(folder / _FILE, lengths(rows), places, width)
