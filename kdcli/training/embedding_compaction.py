"""Training of only those embedding rows whose tokens occur in the data.

A row whose token never occurs never has a gradient, and Adam without weight decay never moves it. A
table of the other rows therefore trains to the same weights, with less work for the optimiser: a
dataset uses a few thousand of BERT's 30,522 tokens, and in a small student the table is most of the
parameters.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcli.data.tokenization.tokenize import distinct_token_ids

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


@contextmanager
def compact_embeddings(
    models: Sequence["PreTrainedModel"], tokenized_splits: Sequence["Dataset"]
) -> Iterator[torch.Tensor]:
    """Within the block the models' embedding tables hold only the rows of tokens that occur.

    Args:
        models: Models with one vocabulary. Their tables shrink in place; after the block they are
            complete again, with the trained rows.
        tokenized_splits: All tokenised rows that the models will read within the block.

    Yields:
        For each token id its row in the smaller table, (vocabulary,) of int64.
    """
    embeddings = [model.get_input_embeddings() for model in models]
    tables = [embedding.weight.detach().clone() for embedding in embeddings]
    # Models and collators know padding by its id: the ids up to it stay as they are.
    kept = np.arange(max(model.config.pad_token_id or 0 for model in models) + 1)
    used = torch.from_numpy(
        np.unique(np.concatenate([kept, *map(distinct_token_ids, tokenized_splits)]))
    )
    row_by_token_id = torch.zeros(max(map(len, tables)), dtype=torch.int64)
    row_by_token_id[used] = torch.arange(len(used))
    for embedding, table in zip(embeddings, tables, strict=True):
        _set_embedding_weight(embedding, table[used])
    try:
        yield row_by_token_id
    finally:
        for embedding, table in zip(embeddings, tables, strict=True):
            trained = embedding.weight.detach()
            restored = table.to(trained.device)
            restored[used.to(trained.device)] = trained
            _set_embedding_weight(embedding, restored)


def has_untied_embeddings(model: "PreTrainedModel") -> bool:
    """Return whether the embedding layer alone reads its table.

    In BART and T5 encoder and decoder share it, and the head looks for a token by its id.
    """
    try:
        table = model.get_input_embeddings().weight
    except NotImplementedError:  # CANINE hashes characters into several tables
        return False
    return sum(p is table for _, p in model.named_parameters(remove_duplicate=False)) == 1


def _set_embedding_weight(embedding: torch.nn.Embedding, weight: torch.Tensor) -> None:
    embedding.weight = torch.nn.Parameter(weight, requires_grad=embedding.weight.requires_grad)
    embedding.num_embeddings = len(weight)
