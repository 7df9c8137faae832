"""Statistics of a split: label balance, text lengths, writing scripts."""

import functools
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data import column_access

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

SHORT_TEXT_CHARACTERS = 3
_MAX_SAMPLE_ROWS = 100_000
# Kana, Han and Hangul stand in one text side by side.
_MERGED_SCRIPTS = {"HIRAGANA": "Japanese", "KATAKANA": "Japanese", "CJK": "Han", "HANGUL": "Hangul"}
_NO_SCRIPT = "none"

LengthCounter = Callable[[Sequence[str], Sequence[str] | None], tuple[np.ndarray, int]]


def label_balance(label_counts: np.ndarray, label_names: Sequence[str]) -> dict[str, Any]:
    """Distribution of a split's texts over its labels.

    Args:
        label_counts: The number of texts of each label, (labels,).
        label_names: The labels.

    Returns:
        `count` of the labels that occur; `rarest` and `most_frequent`, each with `label` and
        `texts`; their `ratio`; `entropy` of the label in bits, and `evenness`: the entropy divided
        by that of equally frequent labels, 1 for a single label; `texts` by label.
    """
    counts = {name: int(n) for name, n in zip(label_names, label_counts, strict=True) if n}
    if not counts:
        return {"count": 0, "texts": {}}
    rarest, most_frequent = (
        min(counts, key=lambda name: counts[name]),
        max(counts, key=lambda n: counts[n]),
    )
    shares = np.array([*counts.values()]) / sum(counts.values())
    entropy = float(-(shares * np.log2(shares)).sum())
    return {
        "count": len(counts),
        "rarest": {"label": rarest, "texts": counts[rarest]},
        "most_frequent": {"label": most_frequent, "texts": counts[most_frequent]},
        "ratio": counts[most_frequent] / counts[rarest],
        "entropy": entropy,
        "evenness": entropy / np.log2(len(counts)).item() if len(counts) > 1 else 1.0,
        "texts": counts,
    }


def text_length_statistics(
    split: "Dataset", count_lengths: LengthCounter, unit: str, max_length: int | None
) -> dict[str, Any]:
    """Lengths of a split's texts; for a very large split, of an evenly spread sample.

    Args:
        split: The split, with `text`, and `text_pair` for pairs, which count as one text.
        count_lengths: Returns the length of each text, and the number of unknown units in them.
        unit: The unit of lengths: `tokens` or `words`.
        max_length: The model's limit in tokens. None if it is unknown.

    Returns:
        `median`, `p95` and `longest`; `limit` and the share of texts `over_limit`; `unknown`, the
        share of units that the vocabulary lacks; `of`, the number of texts measured; `unit`.
    """
    batches, unknown = [], 0
    names = column_access.text_column_names(split)
    for columns in column_access.iterate_column_batches(
        column_access.sample_rows_evenly(split, _MAX_SAMPLE_ROWS), *names
    ):
        batch_lengths, batch_unknown = count_lengths(
            columns[0], columns[1] if len(columns) > 1 else None
        )
        batches.append(batch_lengths)
        unknown += batch_unknown
    lengths = np.concatenate(batches)
    return {
        "unit": unit,
        "of": len(lengths),
        "median": float(np.median(lengths)),
        "p95": float(np.percentile(lengths, 95)),
        "longest": int(lengths.max()),
        "limit": max_length,
        "over_limit": None if max_length is None else float((lengths > max_length).mean()),
        "unknown": unknown / max(int(lengths.sum()), 1),
    }


def token_length_counter(tokenizer: "PreTrainedTokenizerBase") -> LengthCounter:
    """A counter of a model's tokens, special tokens included."""

    def count(texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[np.ndarray, int]:
        more = () if pairs is None else (list(pairs),)
        ids = tokenizer(list(texts), *more, truncation=False, verbose=False)["input_ids"]
        unknown = tokenizer.unk_token_id
        return np.array([len(row) for row in ids]), sum(row.count(unknown) for row in ids)

    return count


def count_words(texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[np.ndarray, int]:
    """Count words between spaces; a model sees at least as many tokens."""
    words = np.array([len(text.split()) for text in texts])
    return words + (0 if pairs is None else count_words(pairs, None)[0]), 0


def writing_script_shares(split: "Dataset") -> dict[str, float]:
    """Share of the texts that are mostly in each writing script, the most frequent first.

    A text without letters counts as `none`. A very large split is sampled.
    """
    counts: Counter[str] = Counter()
    sample = column_access.sample_rows_evenly(split, _MAX_SAMPLE_ROWS // 10)
    for column in column_access.text_column_names(split):
        counts.update(map(_main_script, column_access.iterate_column_values(sample, column)))
    return {script: count / counts.total() for script, count in counts.most_common()}


def _main_script(text: str) -> str:
    letters = Counter(_letter_script(letter) for letter in text if letter.isalpha())
    if "Japanese" in letters:
        return "Japanese"
    return letters.most_common(1)[0][0] if letters else _NO_SCRIPT


@functools.cache
def _letter_script(letter: str) -> str:
    # A letter's name begins with its script: CYRILLIC SMALL LETTER A.
    first = unicodedata.name(letter, "other").split()[0]
    return _MERGED_SCRIPTS.get(first, first.capitalize())
