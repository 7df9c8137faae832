"""Run a TF-IDF student, weighted n-grams and a linear layer, with numpy and safetensors.

The features are those of scikit-learn's `TfidfVectorizer`: lower case, `sublinear_tf`, smooth idf,
length 1 for each kind of n-gram.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.errors import DataError, ModelError, UsageError
from kdcli.runtime import Text, TextClassifier, Truncation, read_labels_and_task

if TYPE_CHECKING:
    import numpy as np

TFIDF_MODEL_TYPE = "kd_tfidf"
WEIGHTS_FILE, VOCABULARY_FILE = "model.safetensors", "vocabulary.json"
# As scikit-learn's defaults.
_WORD_PATTERN = re.compile(r"\b\w\w+\b")
_REPORT_EVERY = 256


def word_ngrams(text: str, shortest: int, longest: int) -> Iterator[str]:
    """Yield the n-grams of words of a lower-cased text, as `analyzer="word"`."""
    words = _WORD_PATTERN.findall(text)
    for size in range(shortest, longest + 1):
        for start in range(len(words) - size + 1):
            yield " ".join(words[start : start + size])


def character_ngrams(text: str, shortest: int, longest: int) -> Iterator[str]:
    """Yield the n-grams of characters within each padded word, as `analyzer="char_wb"`."""
    for word in text.split():
        padded = f" {word} "
        for size in range(shortest, longest + 1):
            for start in range(max(1, len(padded) - size + 1)):
                yield padded[start : start + size]
            if size >= len(padded):
                break  # a word shorter than the n-gram counts once


_ANALYZERS = {"word": word_ngrams, "char_wb": character_ngrams}


class TfidfClassifier(TextClassifier):
    """A TF-IDF student in numpy. It reads a text from start to end.

    Args:
        folder: The student's folder.
        max_length: Not supported.
        truncation: Not supported.

    Raises:
        ModelError: A file is missing or invalid.
        UsageError: A length or truncation is given.
    """

    is_thread_safe = True
    reads_one_text_at_a_time = True

    def __init__(
        self,
        folder: str | Path,
        *,
        max_length: int | None = None,
        truncation: Truncation | None = None,
    ) -> None:
        from safetensors.numpy import load_file

        path = Path(folder)
        if max_length is not None or truncation is not None:
            raise UsageError(
                f"{path}: a TF-IDF student has no tokens to count, and reads the whole text.",
                "Leave length and truncation out.",
            )
        config, labels, task = read_labels_and_task(path)
        super().__init__(path, labels, task)
        try:
            weights = load_file(path / WEIGHTS_FILE)
            self._idf, self._weight, self._bias = (weights[k] for k in ("idf", "weight", "bias"))
            vocabulary = json.loads((path / VOCABULARY_FILE).read_text(encoding="utf-8"))
            self._blocks, count = [], 0
            for kind, (shortest, longest) in config["ngrams"].items():
                ids = {ngram: count + i for i, ngram in enumerate(vocabulary[kind])}
                self._blocks.append((_ANALYZERS[kind], int(shortest), int(longest), ids))
                count += len(ids)
        except Exception as error:
            raise ModelError(
                f"{path} is no complete TF-IDF student: {error}.", "Copy it again."
            ) from error
        expected = ((count,), (count, len(labels)), (len(labels),))
        if tuple(a.shape for a in (self._idf, self._weight, self._bias)) != expected:
            raise ModelError(f"{path}: the weights don't fit {count:,} n-grams and the labels.")

    @property
    def num_bytes(self) -> int:
        """Size of weights and n-grams on disk."""
        return sum((self.folder / name).stat().st_size for name in (WEIGHTS_FILE, VOCABULARY_FILE))

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return int(self._idf.size + self._weight.size + self._bias.size)

    def features(self, text: str) -> "tuple[np.ndarray, np.ndarray]":
        """Return a text's n-grams that the student knows: their numbers, and their weights."""
        import numpy as np

        indices, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        text = text.lower()
        for analyze, shortest, longest, vocabulary in self._blocks:
            counts = Counter(vocabulary.get(ngram) for ngram in analyze(text, shortest, longest))
            counts.pop(None, None)
            if not counts:
                continue
            known = np.fromiter(counts.keys(), np.int64)
            weights = (1 + np.log(np.fromiter(counts.values(), np.float64))) * self._idf[known]
            indices.append(known)
            values.append((weights / np.linalg.norm(weights)).astype(np.float32))
        return np.concatenate(indices), np.concatenate(values)

    def _compute_logits(
        self,
        texts: Sequence[Text],
        first_index: int,
        batch_size: int | None,
        advance: Callable[[int, int], None],
    ) -> "np.ndarray":
        import numpy as np

        logits = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(
                    f"{self.folder}: a TF-IDF student reads single texts, and no pairs."
                )
            indices, values = self.features(text)
            logits[row] = values @ self._weight[indices].astype(np.float32) + self._bias
            if (row + 1) % _REPORT_EVERY == 0 or row + 1 == len(texts):
                advance(row + 1, len(texts))
        return logits
