"""Duplicate texts: with different labels, or both in train and in an evaluation split.

Texts are compared without case, punctuation, the number of spaces and the encoding of characters
(NFKC). Letters of any script with their marks, digits and symbols count: emoji, currencies, the
sign and the separators of a number. A text is represented by 64 bits of a hash; that two of ten
million texts collide has a probability of three in a million.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data import column_access
from kdcli.data.labels import label_arrays

if TYPE_CHECKING:
    from datasets import Dataset

_PUNCTUATION = re.compile(r"[^\w\s]|_")
# What may be written for a minus: hyphens, dashes, and the sign itself.
_MINUS_SIGNS = "-\u2010\u2011\u2012\u2013\u2212"


def duplicate_notes(splits: Mapping[str, "Dataset"]) -> list[str]:
    """Notes for the user about duplicate texts, in one pass over all splits.

    Args:
        splits: Splits with `text`, `text_pair` for pairs, and `label`.
    """
    notes = []
    hashes = {part: text_hashes(split) for part, split in splits.items()}
    labels = {part: label_arrays.label_codes(split) for part, split in splits.items()}
    all_hashes, all_labels = np.concatenate([*hashes.values()]), np.concatenate([*labels.values()])
    if count := count_label_conflicts(all_hashes, all_labels):
        within = (
            f", {count_label_conflicts(hashes['train'], labels['train']):,} of them within train"
            if "train" in splits
            else ""
        )
        notes.append(f"Texts with different labels: {count:,}{within}.")
    train = np.sort(hashes.pop("train", np.zeros(0, dtype=np.uint64)))
    overlaps = {part: int(_is_among(values, train).sum()) for part, values in hashes.items()}
    if overlap := ", ".join(f"{count:,} in {part}" for part, count in overlaps.items() if count):
        notes.append(
            f"Texts of train that also occur in evaluation splits: {overlap} (ignoring case, "
            "punctuation and whitespace). Scores on them are optimistic."
        )
    return notes


def find_train_overlap(split: "Dataset", train: "Dataset") -> tuple[np.ndarray, np.ndarray]:
    """Find the texts of a split that also occur in train, which a model may have memorized.

    Args:
        split: A split with `text` (and `text_pair`) and `label`.
        train: The train split, with the same columns.

    Returns:
        Whether each text occurs in train, (texts,); whether it occurs only with other labels,
        (texts,).
    """
    return find_train_overlap_by_hash(
        text_hashes(split),
        label_arrays.label_codes(split),
        text_hashes(train),
        label_arrays.label_codes(train),
    )


def text_hashes(split: "Dataset") -> np.ndarray:
    """Hash of each text or pair, uint64, (rows,); equal for duplicates."""
    hashes_by_row, done = np.empty(len(split), dtype=np.uint64), 0
    for columns in column_access.iterate_column_batches(
        split, *column_access.text_column_names(split)
    ):
        batch_hashes = [
            _hash_text("\0".join(map(_normalize_text, texts)))
            for texts in zip(*columns, strict=True)
        ]
        hashes_by_row[done : done + len(batch_hashes)] = np.frombuffer(
            b"".join(batch_hashes), dtype=np.uint64
        )
        done += len(batch_hashes)
    return hashes_by_row


def count_duplicates(hashes: np.ndarray) -> int:
    """Count the texts beyond the distinct ones."""
    ordered = np.sort(hashes)
    return int((ordered[1:] == ordered[:-1]).sum())


def count_label_conflicts(hashes: np.ndarray, label_codes: np.ndarray) -> int:
    """Count the distinct texts with more than one label, from hashes and codes, (rows,) each."""
    ordered = np.sort(hashes)
    # Mostly few texts are duplicates: sorting these alone saves memory.
    repeated = _is_among(hashes, np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))
    del ordered
    hashes, label_codes = hashes[repeated], label_codes[repeated]
    order = np.lexsort((label_codes, hashes))
    hashes, label_codes = hashes[order], label_codes[order]
    same = hashes[1:] == hashes[:-1]
    return len(np.unique(hashes[1:][same & (label_codes[1:] != label_codes[:-1])]))


def find_train_overlap_by_hash(
    hashes: np.ndarray,
    label_codes: np.ndarray,
    train_hashes: np.ndarray,
    train_label_codes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The result of `find_train_overlap` from hashes and label codes, (rows,) each."""
    texts = np.sort(train_hashes)
    in_train = _is_among(hashes, texts)
    count = int(max(label_codes.max(initial=0), train_label_codes.max(initial=0))) + 1
    pairs, pairs_of_train = (
        np.searchsorted(texts, k) * count + ids
        for k, ids in ((hashes[in_train], label_codes[in_train]), (train_hashes, train_label_codes))
    )
    with_other_labels = in_train.copy()
    with_other_labels[in_train] = ~np.isin(pairs, pairs_of_train)
    return in_train, with_other_labels


def _is_among(hashes: np.ndarray, sorted_hashes: np.ndarray) -> np.ndarray:
    """Return whether each hash is among the sorted ones; a million at a time to bound memory."""
    is_known = np.zeros(len(hashes), dtype=bool)
    if not len(sorted_hashes):
        return is_known
    for start in range(0, len(hashes), 1_000_000):
        chunk = hashes[start : start + 1_000_000]
        positions = np.searchsorted(sorted_hashes, chunk).clip(max=len(sorted_hashes) - 1)
        is_known[start : start + len(chunk)] = sorted_hashes[positions] == chunk
    return is_known


def _hash_text(normalized_text: str) -> bytes:
    return blake2b(normalized_text.encode(), digest_size=8).digest()


def _normalize_text(text: str) -> str:
    folded = text.casefold()
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        # Case folding makes İ an i with a dot above it.
        folded = folded.replace("i\u0307", "i")
    # A text of punctuation alone is compared as it is.
    return " ".join(_PUNCTUATION.sub(_normalize_punctuation, folded).split()) or text


def _normalize_punctuation(match: re.Match[str]) -> str:
    """The replacement of a character that is no letter, digit or space."""
    character, text, position = match[0], match.string, match.start()
    before, after = text[max(0, position - 1) : position], text[position + 1 : position + 3]
    number_follows = after[:1].isdecimal() or (after[:1] in {".", ","} and after[1:].isdecimal())
    # A sign, decimal and other separators, and per cent belong to a number: 1.5 is not 15.
    if before.isdecimal():
        belongs_to_number = after[:1].isdecimal() or character in "%\u2030"
    else:
        belongs_to_number = (
            character in _MINUS_SIGNS and number_follows and not _is_word_character(before)
        )
    if belongs_to_number:
        return "-" if character in _MINUS_SIGNS else character
    return character if _is_meaningful_character(character) else ""


def _is_word_character(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] in "LNM"


@cache
def _is_meaningful_character(character: str) -> bool:
    """Return whether a character is more than punctuation and layout."""
    category = unicodedata.category(character)
    if category == "Cf":  # invisible; but a flag is told from another by its tags
        return "\U000e0020" <= character <= "\U000e007f"
    # How a symbol is drawn (as text, as a picture) is no difference.
    return category[0] not in "PZ" and category != "Cc" and not "\ufe00" <= character <= "\ufe0f"
