"""Texts that occur more than once: with another label, or in train and where it is measured.

Case, punctuation and the number of spaces make no difference here, nor do ways to encode the same
characters (NFKC). Letters of any script with their marks, digits and symbols do: emoji, currencies,
a sign before a number, separators within one. A text is known by 64 bits of a hash: eight bytes,
however long it is. That two of ten million texts are taken for the same by
chance is as likely as three in a million.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data import pieces, targets

if TYPE_CHECKING:
    from datasets import Dataset

_PUNCTUATION = re.compile(r"[^\w\s]|_")
# What may be written for a minus: hyphens, dashes, and the sign itself.
_MINUS = "-\u2010\u2011\u2012\u2013\u2212"


def notes(splits: Mapping[str, "Dataset"]) -> list[str]:
    """What the user should know of texts that repeat; one pass over all of them.

    Args:
        splits: Each with `text`, `label`, and `text_pair` where the task is on pairs.
    """
    said = []
    found = {part: keys(split) for part, split in splits.items()}
    labels = {part: targets.codes(split) for part, split in splits.items()}
    everywhere = np.concatenate([*found.values()]), np.concatenate([*labels.values()])
    if count := conflicts(*everywhere):
        within = (
            f", {conflicts(found['train'], labels['train']):,} of them within train"
            if "train" in splits
            else ""
        )
        said.append(f"Texts that are labelled in more than one way: {count:,}{within}.")
    train = np.sort(found.pop("train", np.zeros(0, dtype=np.uint64)))
    seen = {part: int(_among(of_part, train).sum()) for part, of_part in found.items()}
    if again := ", ".join(f"{count:,} in {part}" for part, count in seen.items() if count):
        said.append(
            f"Texts of train that occur again (case, punctuation and spaces aside): {again}. "
            "Measured on these, a model looks better than it is."
        )
    return said


def of_train(split: "Dataset", train: "Dataset") -> tuple[np.ndarray, np.ndarray]:
    """Which texts of a split also occur in train: those a model may have learnt by heart.

    Args:
        split: With `text` (and `text_pair`) and `label`.
        train: The same columns.

    Returns:
        (texts,) whether a text does; (texts,) whether it does with other labels only.
    """
    return known(keys(split), targets.codes(split), keys(train), targets.codes(train))


def keys(split: "Dataset") -> np.ndarray:
    """A number for each text or pair, uint64, (rows,): the same where the texts are."""
    found, done = np.empty(len(split), dtype=np.uint64), 0
    for columns in pieces.lists(split, *pieces.text_columns(split)):
        hashes = [_hash("\0".join(map(_key, texts))) for texts in zip(*columns, strict=True)]
        found[done : done + len(hashes)] = np.frombuffer(b"".join(hashes), dtype=np.uint64)
        done += len(hashes)
    return found


def duplicates(keys: np.ndarray) -> int:
    """How many texts there are beyond the different ones."""
    ordered = np.sort(keys)
    return int((ordered[1:] == ordered[:-1]).sum())


def conflicts(keys: np.ndarray, labels: np.ndarray) -> int:
    """How many different texts have more than one label; texts and their labels, (rows,) both."""
    ordered = np.sort(keys)
    # Mostly few texts repeat: what is copied for each of them isn't for all.
    repeated = _among(keys, np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))
    del ordered
    keys, labels = keys[repeated], labels[repeated]
    order = np.lexsort((labels, keys))
    keys, labels = keys[order], labels[order]
    same = keys[1:] == keys[:-1]
    return len(np.unique(keys[1:][same & (labels[1:] != labels[:-1])]))


def known(
    keys: np.ndarray, labels: np.ndarray, of_train: np.ndarray, labels_of_train: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same as `of_train`, of texts' keys and their labels, (rows,) each."""
    texts = np.sort(of_train)
    again = _among(keys, texts)
    count = int(max(labels.max(initial=0), labels_of_train.max(initial=0))) + 1
    pairs, pairs_of_train = (
        np.searchsorted(texts, k) * count + ids
        for k, ids in ((keys[again], labels[again]), (of_train, labels_of_train))
    )
    otherwise = again.copy()
    otherwise[again] = ~np.isin(pairs, pairs_of_train)
    return again, otherwise


def _among(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each key is among the known ones, which are in order; a million at a time."""
    found = np.zeros(len(keys), dtype=bool)
    if not len(known):
        return found
    for start in range(0, len(keys), 1_000_000):
        piece = keys[start : start + 1_000_000]
        places = np.searchsorted(known, piece).clip(max=len(known) - 1)
        found[start : start + len(piece)] = known[places] == piece
    return found


def _hash(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=8).digest()


def _key(text: str) -> str:
    folded = text.casefold()
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        # Case folding makes İ an i with a dot above it.
        folded = folded.replace("i\u0307", "i")
    # A text of nothing but punctuation is itself.
    return " ".join(_PUNCTUATION.sub(_kept, folded).split()) or text


def _kept(found: re.Match[str]) -> str:
    """What a character that is no letter, digit or space is replaced by."""
    character, text, place = found[0], found.string, found.start()
    before, after = text[max(0, place - 1) : place], text[place + 1 : place + 3]
    number = after[:1].isdecimal() or (after[:1] in {".", ","} and after[1:].isdecimal())
    # A sign, decimal and other separators, and per cent are a number's own: 1.5 is not 15.
    if before.isdecimal():
        own = after[:1].isdecimal() or character in "%\u2030"
    else:
        own = character in _MINUS and number and not _is_of_a_word(before)
    if own:
        return "-" if character in _MINUS else character
    return character if _means_something(character) else ""


def _is_of_a_word(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] in "LNM"


@cache
def _means_something(character: str) -> bool:
    """Whether a character is more than punctuation and layout."""
    category = unicodedata.category(character)
    if category == "Cf":  # invisible; but a flag is told from another by its tags
        return "\U000e0020" <= character <= "\U000e007f"
    # How a symbol is drawn (as text, as a picture) is no difference.
    return category[0] not in "PZ" and category != "Cc" and not "\ufe00" <= character <= "\ufe0f"
