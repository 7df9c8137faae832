"""Features of TF-IDF students, and their folders: JSON and safetensors."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.errors import RecipeError
from kdcli.safe_files import apply_umask
from kdcli.tfidf_runtime import TFIDF_MODEL_TYPE, VOCABULARY_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from kdcli.students.linear_fit import LinearFit


@dataclass(frozen=True)
class TfidfFeatures:
    """N-grams and their weights.

    Attributes:
        ngrams: Shortest and longest n-gram, by scikit-learn's name of the kind.
        vocabulary: The n-grams of each kind, in the order of `idf`.
        idf: Inverse document frequency of each n-gram, float64.
    """

    ngrams: Mapping[str, tuple[int, int]]
    vocabulary: Mapping[str, Sequence[str]]
    idf: np.ndarray

    def transform(self, texts: Sequence[str]) -> Any:
        """Return the features of texts, a float32 sparse matrix, (texts, n-grams)."""
        from scipy.sparse import hstack

        blocks, start = [], 0
        for kind, limits in self.ngrams.items():
            vectorizer = _vectorizer(kind, limits, vocabulary=self.vocabulary[kind])
            stop = start + len(self.vocabulary[kind])
            vectorizer.idf_ = self.idf[start:stop]
            blocks.append(vectorizer.transform(texts))
            start = stop
        return hstack(blocks, format="csr").astype(np.float32)


def fit_features(
    texts: Sequence[str], ngrams: Mapping[str, tuple[int, int]], min_df: int, max_features: int
) -> TfidfFeatures:
    """Choose the n-grams of texts.

    Args:
        texts: The training texts.
        ngrams: Shortest and longest n-gram, by kind.
        min_df: Number of texts that an n-gram has to occur in.
        max_features: Most n-grams of each kind.

    Raises:
        RecipeError: No n-gram occurs often enough.
    """
    vocabulary, idf, kept = {}, [], {}
    for kind, limits in ngrams.items():
        vectorizer = _vectorizer(kind, limits, min_df=min_df, max_features=max_features)
        try:
            vectorizer.fit(texts)
        # Some languages have no words of two letters and more between spaces.
        except ValueError:
            continue
        kept[kind] = limits
        vocabulary[kind] = vectorizer.get_feature_names_out().tolist()
        idf.append(vectorizer.idf_)
    if not idf:
        raise RecipeError(
            f"student.family: tfidf finds no n-gram that occurs in {min_df} training texts.",
            "Set student.options.min_df: 1, or give more texts.",
        )
    return TfidfFeatures(kept, vocabulary, np.concatenate(idf))


def write_features(features: TfidfFeatures, config: "PretrainedConfig", folder: Path) -> None:
    """Write the folder of an untrained student: the features and the labels."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "model_type": TFIDF_MODEL_TYPE,
        "ngrams": {kind: list(limits) for kind, limits in features.ngrams.items()},
        "id2label": {str(i): name for i, name in config.id2label.items()},
        "label2id": config.label2id,
        "problem_type": config.problem_type,
    }
    for name, value in {"config.json": content, VOCABULARY_FILE: features.vocabulary}.items():
        text = json.dumps(value, indent=2 if name == "config.json" else None, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    save_file({"idf": features.idf}, folder / WEIGHTS_FILE)
    apply_umask(folder)


def read_features(folder: Path) -> TfidfFeatures:
    """Read the features that `write_features` wrote."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
    ngrams = {kind: (limits[0], limits[1]) for kind, limits in config["ngrams"].items()}
    return TfidfFeatures(ngrams, vocabulary, load_file(folder / WEIGHTS_FILE)["idf"])


def write_tfidf_student(
    features: TfidfFeatures, fit: "LinearFit", untrained: Path, folder: Path, dtype: str
) -> None:
    """Write the folder of a trained student, which `kdcli.tfidf_runtime` runs.

    Args:
        features: Its features.
        fit: Its linear layer.
        untrained: Folder that `write_features` wrote.
        folder: Created if it is missing.
        dtype: Number format of the layer's weights.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", VOCABULARY_FILE):
        (folder / name).write_bytes((untrained / name).read_bytes())
    weights = {"idf": features.idf, "weight": fit.weight.astype(dtype), "bias": fit.bias}
    save_file(weights, folder / WEIGHTS_FILE)
    apply_umask(folder)


def _vectorizer(kind: str, limits: tuple[int, int], **options: Any) -> Any:
    # Takes a second to import.
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer=kind, ngram_range=limits, sublinear_tf=True, **options)
