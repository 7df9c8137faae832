"""Training the embeddings of the tokens that occur, and of no others.

A row of the embedding table whose token never occurs never has a gradient, and an Adam without
weight decay never moves it. So a table of the other rows trains to the same weights, at a
fraction of the optimiser's traffic: of BERT's 30,522 pieces a data set uses a few thousand, and
in a small student the table is most of the parameters.
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
    """Within the block the models' embedding tables hold only the rows that `tokenized_splits` need.

    Args:
        models: Their tables shrink in place, and are whole again, with what was learnt,
            afterwards. They share their token ids.
        tokenized_splits: All that the models will read within the block, as encoded rows.

    Yields:
        For each token id its row in the smaller table, (vocabulary,) of int64.
    """
    embeddings = [model.get_input_embeddings() for model in models]
    tables = [embedding.weight.detach().clone() for embedding in embeddings]
    # The padding token's id means something to models and collators: it keeps its place.
    first = np.arange(max(model.config.pad_token_id or 0 for model in models) + 1)
    used = torch.from_numpy(
        np.unique(np.concatenate([first, *map(distinct_token_ids, tokenized_splits)]))
    )
    place = torch.zeros(max(map(len, tables)), dtype=torch.int64)
    place[used] = torch.arange(len(used))
    for embedding, whole in zip(embeddings, tables, strict=True):
        _set_embedding_weight(embedding, whole[used])
    try:
        yield place
    finally:
        for embedding, whole in zip(embeddings, tables, strict=True):
            learnt = embedding.weight.detach()
            restored = whole.to(learnt.device)
            restored[used.to(learnt.device)] = learnt
            _set_embedding_weight(embedding, restored)


def has_untied_embeddings(model: "PreTrainedModel") -> bool:
    """Whether nothing but the embedding layer reads the table.

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
