"""Data augmentation: altered copies of texts, which the teacher labels."""

from collections.abc import Iterator, Sequence

import numpy as np

from kdcli.recipe.augmentation import AugmentationConfig

# The words of a text; None is a masked word.
MaskedWords = list[str | None]


def augment_texts(
    texts: Sequence[tuple[str, ...]], augment_config: AugmentationConfig, seed: int
) -> Iterator[tuple[MaskedWords, ...]]:
    """Yield altered copies of each text (or pair), as lists of words.

    Words are separated by whitespace. Random words are deleted (EDA, Wei and Zou 2019,
    arXiv:1901.11196) or masked, for a masked language model to fill (TinyBERT, Jiao et al. 2020,
    arXiv:1909.10351, algorithm 1). Some texts are mixed: the first half of one with the second
    half of another, as MixKD does with embeddings (Liang et al. 2021, arXiv:2011.00593).

    Args:
        texts: Tuples of one text, or two for pairs.
        augment_config: The number of copies and the probability of each change.
        seed: Seed of all random choices.
    """
    random = np.random.default_rng(seed)
    for _ in range(augment_config.copies):
        for row in texts:
            second_row = (
                texts[int(random.integers(len(texts)))]
                if random.random() < augment_config.crossover
                else row
            )
            yield tuple(
                _drop_and_mask_words(
                    _mix_halves(text.split(), second_text.split()), augment_config, random
                )
                for text, second_text in zip(row, second_row, strict=True)
            )


def _mix_halves(words: list[str], others: list[str]) -> list[str]:
    return words if words == others else words[: (len(words) + 1) // 2] + others[len(others) // 2 :]


def _drop_and_mask_words(
    words: list[str], augment_config: AugmentationConfig, random: np.random.Generator
) -> MaskedWords:
    chances = random.random(len(words))
    kept: MaskedWords = [
        None if chance < augment_config.drop + augment_config.mask else word
        for word, chance in zip(words, chances, strict=True)
        if chance >= augment_config.drop
    ]
    return kept or [words[random.integers(len(words))]]
