"""Fill masked words with a masked language model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcli.data.augmentation import MaskedWords
from kdcli.errors import ModelError, as_resource_error
from kdcli.models.batch_inference import Batch, run_batches
from kdcli.models.model_io import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH_SIZE = 64
# The new word is sampled from this many of the most likely words.
_TOP_K = 10


def load_masked_lm(folder: Path) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a masked language model, in evaluation mode, and its tokenizer.

    Raises:
        ModelError: `folder` holds no masked language model, or its head is untrained.
    """
    from transformers import AutoModelForMaskedLM

    tokenizer = load_tokenizer(folder)
    try:
        model, info = AutoModelForMaskedLM.from_pretrained(
            folder, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise as_resource_error(error) or _not_a_masked_lm_error(folder) from error
    if tokenizer.mask_token is None or info["missing_keys"]:
        raise _not_a_masked_lm_error(folder)
    return model.eval(), tokenizer


def fill_masked_words(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    masked_texts: Sequence[MaskedWords],
    seed: int,
    advance: Callable[[int, int], None],
) -> list[str]:
    """Sample the masked words of texts from the model's predictions.

    Masked words beyond the model's maximum length are left out.

    Args:
        model: A masked language model.
        tokenizer: The model's.
        masked_texts: The words of each text; None marks a masked word.
        seed: Seed of the sampling.
        advance: Called after each batch with the texts done and the number of texts.

    Returns:
        The filled texts.
    """
    words = _whole_word_token_ids(tokenizer)
    random = torch.Generator().manual_seed(seed)
    filled: dict[int, str] = {}

    def make_batch(row_indices: list[int]) -> Batch:
        mask = str(tokenizer.mask_token)
        masked = [" ".join(word or mask for word in masked_texts[row]) for row in row_indices]
        return tokenizer(masked, padding=True, truncation=True, return_tensors="pt")

    def fill_batch(row_indices: np.ndarray, batch: Batch) -> None:
        row, position = torch.nonzero(batch["input_ids"] == tokenizer.mask_token_id, as_tuple=True)
        scores = model(**batch).logits[row, position][:, words.to(row.device)].cpu()
        best = scores.topk(min(_TOP_K, len(words)))
        drawn = torch.multinomial(best.values.softmax(-1), 1, generator=random)
        tokens = words[best.indices.gather(-1, drawn).squeeze(-1)].tolist()
        new_words: list[list[str]] = [[] for _ in row_indices]
        for number, token in zip(row.tolist(), tokens, strict=True):
            new_words[number].append(str(tokenizer.decode([token])).strip())
        for index, new in zip(row_indices, new_words, strict=True):
            rest = iter(new)
            text = (next(rest, "") if word is None else word for word in masked_texts[index])
            filled[int(index)] = " ".join(word for word in text if word)

    rows = np.arange(len(masked_texts))
    batches = [rows[start : start + _BATCH_SIZE] for start in range(0, len(rows), _BATCH_SIZE)]
    run_batches(model, batches, make_batch, fill_batch, advance)
    return [filled[index] for index in range(len(masked_texts))]


def _whole_word_token_ids(tokenizer: "PreTrainedTokenizerBase") -> torch.Tensor:
    """Find the ids of the tokens that are a complete word."""
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(len(tokenizer)) if i not in special]
    words = [text.strip() for text in tokenizer.batch_decode([[i] for i in ids])]
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return torch.tensor(
        [i for i, word, tokens in zip(ids, words, encoded, strict=True) if word and tokens == [i]]
    )


def _not_a_masked_lm_error(folder: Path) -> ModelError:
    return ModelError(
        f"augment.model: {folder} holds no masked language model.",
        "Name one, such as google-bert/bert-base-uncased.",
    )
