"""A model's outputs for a whole split."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcli import processes
from kdcli.data.encode import TEXT_OF, Collator, batches_of_like_length, by_text, lengths
from kdcli.models.cls_only import last_layer_cls_only
from kdcli.models.padding import needs_equal_lengths

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


def logits(
    model: "PreTrainedModel",
    collate: Collator,
    encoded: "Dataset",
    batch_size: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
    *,
    after: Callable[[np.ndarray, Mapping[str, torch.Tensor]], None] = lambda places, batch: None,
) -> np.ndarray:
    """The model's logits for every row, without gradients, in batches of like length.

    Args:
        model: A classifier; it is put in evaluation mode.
        collate: Of that model.
        encoded: Rows of token ids.
        batch_size: Rows in a batch.
        advance: Told of rows done and rows in all.
        after: Given each batch that has passed: its rows' places in `encoded`, and the inputs.

    Returns:
        float32, (rows, classes), in the order of `encoded`.
    """
    model.eval()
    aside = {"label", "labels", TEXT_OF}
    rows = encoded.select_columns([c for c in encoded.column_names if c not in aside])
    # The longest first: what runs out of memory does so at once.
    batches = batches_of_like_length(
        lengths(encoded), batch_size, longest_first=True, equal=needs_equal_lengths(model)
    )
    found: np.ndarray | None = None
    done = 0
    with torch.inference_mode(), last_layer_cls_only(model):
        for places in batches:
            batch = collate(rows.__getitems__(places.tolist()))
            outputs = model(**{name: t.to(model.device) for name, t in batch.items()}).logits
            if found is None:
                found = np.empty((len(encoded), outputs.shape[-1]), dtype=np.float32)
            found[places] = outputs.float().cpu().numpy()
            after(places, batch)
            done += len(places)
            advance(done, len(encoded))
    assert found is not None, "an empty split is refused where it is loaded"
    return found


def shared_logits(
    model: "PreTrainedModel",
    collate: Collator,
    encoded: "Dataset",
    batch_size: int,
    advance: Callable[[int, int], None],
) -> np.ndarray:
    """The logits of each text: each process of the run does its share, and gets the whole."""
    rows, count = len(encoded), processes.count()
    mine = np.array_split(np.arange(rows), count)[processes.place()]

    def advance_all(done: int, total: int) -> None:
        advance(rows * done // total, rows)

    share = encoded.select(mine)
    part = logits(model, collate, share, batch_size, advance_all) if len(share) else None
    parts = [found for found in processes.gathered(part) if found is not None]
    return by_text(np.concatenate(parts), encoded)
