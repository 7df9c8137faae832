"""Altered copies of texts, word by word: the teacher says what becomes of the label."""

from collections.abc import Iterator, Sequence

import numpy as np

from kdcli.recipe.augmentation import AugmentationConfig

# The words of a text; None is one to be written anew.
MaskedWords = list[str | None]


def augment_texts(
    texts: Sequence[tuple[str, ...]], augment_config: AugmentationConfig, seed: int
) -> Iterator[tuple[MaskedWords, ...]]:
    """Altered copies of each row, as words.

    Words are what spaces part. They are left out as by Wei and Zou 2019 (EDA, arXiv:1901.11196),
    or written anew by a masked language model as by Jiao et al. 2020 (TinyBERT, arXiv:1909.10351,
    algorithm 1); the first half of one text with the second of another is a mixture like those of
    Liang et al. 2021 (MixKD, arXiv:2011.00593), in words instead of embeddings.

    Args:
        texts: Texts, or pairs of them.
        augment_config: How many copies, and what is done to them.
        seed: Of what happens to which word.
    """
    random = np.random.default_rng(seed)
    for _ in range(augment_config.copies):
        for row in texts:
            other = (
                texts[int(random.integers(len(texts)))]
                if random.random() < augment_config.mix
                else row
            )
            yield tuple(
                _drop_and_mask_words(
                    _mix_halves(text.split(), another.split()), augment_config, random
                )
                for text, another in zip(row, other, strict=True)
            )


def _mix_halves(words: list[str], others: list[str]) -> list[str]:
    return words if words == others else words[: (len(words) + 1) // 2] + others[len(others) // 2 :]


def _drop_and_mask_words(
    words: list[str], augment_config: AugmentationConfig, random: np.random.Generator
) -> MaskedWords:
    chances = random.random(len(words))
    found: MaskedWords = [
        None if chance < augment_config.drop + augment_config.mask else word
        for word, chance in zip(words, chances, strict=True)
        if chance >= augment_config.drop
    ]
    return found or [words[random.integers(len(words))]]
