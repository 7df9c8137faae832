"""Tokenized rows as padded batches of tensors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdcli.data.tokenization.windows import TEXT_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PaddingCollator:
    """Collator that pads token columns to the longest row and stacks all other columns.

    Args:
        tokenizer: The tokenizer, for the padding side and the padding values.
        forward_argument_names: The arguments of the model's `forward`; token columns of other names
            are dropped.
        embedding_row_by_token_id: The row of each token id in the model's embedding table, (ids,).
            None if the ids are the rows.
        pad_token_id: The model's padding id. None takes the tokenizer's.
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
        """Build a batch: tokens (rows, longest row), other columns (rows, …) such as `labels`."""
        columns = [n for n in self.tokenizer.model_input_names if n in rows[0]]
        encoding = self.tokenizer.pad(
            {name: [row[name] for row in rows] for name in columns},
            return_tensors="pt",
            return_attention_mask=True,
        )
        if self.pad_token_id is not None:
            padding = encoding["attention_mask"] == 0
            encoding["input_ids"] = encoding["input_ids"].masked_fill(padding, self.pad_token_id)
        batch = {name: t for name, t in encoding.items() if name in self.forward_argument_names}
        if self.embedding_row_by_token_id is not None:
            batch["input_ids"] = self.embedding_row_by_token_id[batch["input_ids"]]
        for name in rows[0].keys() - {*columns, TEXT_INDEX}:
            batch[name] = torch.as_tensor(np.asarray([row[name] for row in rows]))
        return batch
