"""Tokenized rows as padded batches of tensors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdcli.data.tokenization.windows import TEXT_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
