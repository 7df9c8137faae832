"""Altered copies of texts, word by word: the teacher says what becomes of the label."""

from collections.abc import Iterator, Sequence

import numpy as np

from kdcli.recipe.augment import AugmentSpec

# The words of a text; None is one to be written anew.
Words = list[str | None]


def copies(
    rows: Sequence[tuple[str, ...]], spec: AugmentSpec, seed: int
) -> Iterator[tuple[Words, ...]]:
    """Altered copies of each row, as words.

    Words are what spaces part. They are left out as by Wei and Zou 2019 (EDA, arXiv:1901.11196),
    or written anew by a masked language model as by Jiao et al. 2020 (TinyBERT, arXiv:1909.10351,
    algorithm 1); the first half of one text with the second of another is a mixture like those of
    Liang et al. 2021 (MixKD, arXiv:2011.00593), in words instead of embeddings.

    Args:
        rows: Texts, or pairs of them.
        spec: How many copies, and what is done to them.
        seed: Of what happens to which word.
    """
    random = np.random.default_rng(seed)
    for _ in range(spec.copies):
        for row in rows:
            other = rows[int(random.integers(len(rows)))] if random.random() < spec.mix else row
            yield tuple(
                _altered(_mixed(text.split(), another.split()), spec, random)
                for text, another in zip(row, other, strict=True)
            )


def _mixed(words: list[str], others: list[str]) -> list[str]:
    return words if words == others else words[: (len(words) + 1) // 2] + others[len(others) // 2 :]


def _altered(words: list[str], spec: AugmentSpec, random: np.random.Generator) -> Words:
    chances = random.random(len(words))
    found: Words = [
        None if chance < spec.drop + spec.mask else word
        for word, chance in zip(words, chances, strict=True)
        if chance >= spec.drop
    ]
    return found or [words[random.integers(len(words))]]
