"""A teacher of embeddings and a simple classifier of them.

Where each label has few texts, it learns more from them than a fine-tuned model may.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from kdcli.data.encode import batches_of_like_length, encode, lengths, sample_columns
from kdcli.errors import DataError
from kdcli.evaluation.calibration import fit_temperature
from kdcli.models import source
from kdcli.models.padding import align_padding, collator_for, needs_equal_lengths
from kdcli.models.positions import length_limit
from kdcli.recipe.black_box import EmbeddingsSpec
from kdcli.tasks import SINGLE_LABEL
from kdcli.teachers.asked import LEAST, Advance, Asking, Setting
from kdcli.training.losses import mean_pooled

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

_BATCH = 64
_HEAD = "head.npz"
# How little the logistic regression is held back; what suits the validation texts is taken.
_FREEDOMS = (1.0, 10.0, 100.0)


def check(spec: EmbeddingsSpec, setting: Setting) -> None:
    """See that the model is there, and that each text has one label.

    Raises:
        ModelError: It isn't.
        DataError: A text has several labels, or a score.
    """
    if setting.corpus.task is not SINGLE_LABEL:
        raise DataError(
            f"A teacher of embeddings is for {SINGLE_LABEL}, not {setting.corpus.task}."
        )
    folder = source.locate(spec.model, spec.revision, allow_pickle=setting.allow_pickle)
    source.load_config(folder)
    source.load_tokenizer(folder)


def fit(spec: EmbeddingsSpec, setting: Setting) -> None:
    """Fit the classifier to the training texts, and write it into the teacher's folder."""
    corpus, model = setting.corpus, _Embedder(spec, setting)
    places = range(len(corpus.labels))
    truths = {part: corpus.truth(corpus.splits[part], places, len(corpus.labels))
              for part in ("train", "validation")}  # fmt: skip
    train, held = (model(corpus.splits[part]) for part in truths)
    if spec.head == "nearest":
        weight, bias = _means(train, truths["train"], len(corpus.labels))
        weight /= fit_temperature(held @ weight.T + bias, truths["validation"], corpus.task)
    else:
        heads = [_regression(train, truths["train"], len(places), c) for c in _FREEDOMS]
        assert SINGLE_LABEL.log_loss is not None
        losses = [SINGLE_LABEL.log_loss(held @ w.T + b, truths["validation"]) for w, b in heads]
        weight, bias = heads[int(np.argmin(losses))]
    with (setting.folder / _HEAD).open("wb") as file:
        np.savez(file, weight=weight.astype(np.float32), bias=bias.astype(np.float32))


def opened(spec: EmbeddingsSpec, setting: Setting) -> Asking:
    """Load the encoder: what the classifier makes of each text's embedding, (texts, labels)."""
    with np.load(setting.folder / _HEAD) as head:
        weight, bias = head["weight"], head["bias"]
    embed = _Embedder(spec, setting)

    def logits(split: "Dataset", advance: Advance) -> np.ndarray:
        found: np.ndarray = embed(split, advance) @ weight.T + bias
        return found.astype(np.float32)

    return logits


def _means(found: np.ndarray, truth: np.ndarray, labels: int) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = np.zeros((labels, found.shape[1])), np.zeros(labels)
    for label in range(labels):
        if (own := found[truth == label]).size:
            weight[label] = F.normalize(torch.from_numpy(own.mean(0)), dim=0).numpy()
        else:
            bias[label] = np.log(LEAST)
    return weight, bias


def _regression(
    found: np.ndarray, truth: np.ndarray, labels: int, freedom: float
) -> tuple[np.ndarray, np.ndarray]:
    # Every plan looks at the kinds of teachers, and this takes a second to import.
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=freedom, max_iter=1000).fit(found, truth)
    weight, bias = np.zeros((labels, found.shape[1])), np.full(labels, np.log(LEAST))
    if len(fitted.classes_) > 2:
        weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
    else:
        one, other = fitted.classes_
        bias[one] = 0.0
        weight[other], bias[other] = fitted.coef_[0], fitted.intercept_[0]
    return weight, bias


class _Embedder:
    """Embeddings of length 1, as sentence-transformers makes them: first token, or mean."""

    def __init__(self, spec: EmbeddingsSpec, setting: Setting) -> None:
        folder = source.locate(spec.model, spec.revision, allow_pickle=setting.allow_pickle)
        model = source.load_classifier(folder, ("0", "1"), fresh_head=True)
        self.tokenizer = source.load_tokenizer(folder)
        self.limit = length_limit(model, self.tokenizer, setting.data.max_length)
        texts = sample_columns(setting.corpus.splits["train"])
        align_padding(model, self.tokenizer, spec.model, texts, limit=self.limit)
        self.model = model.base_model
        self.first = _takes_first_token(folder)

    def __call__(self, split: "Dataset", advance: Advance = lambda done, total: None) -> np.ndarray:
        """(texts, width), float32."""
        rows = encode(split, self.tokenizer, self.limit)
        rows = rows.select_columns([name for name in rows.column_names if name != "label"])
        collate = collator_for(self.model, self.tokenizer)
        equal = needs_equal_lengths(self.model)
        batches = batches_of_like_length(lengths(rows), _BATCH, longest_first=True, equal=equal)
        done = 0
        found = np.empty((len(rows), self.model.config.hidden_size), dtype=np.float32)
        with torch.inference_mode():
            for places in batches:
                batch = collate(rows.__getitems__(places.tolist()))
                states = self.model(**batch).last_hidden_state
                found[places] = self._pooled(states, batch["attention_mask"]).numpy()
                done += len(places)
                advance(done, len(rows))
        return found

    def _pooled(self, states: "Tensor", mask: "Tensor") -> "Tensor":
        return F.normalize(states[:, 0] if self.first else mean_pooled(states, mask))


def _takes_first_token(folder: Path) -> bool:
    """Whether a sentence-transformers folder says that its first token stands for the text."""
    try:
        told = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and bool(told.get("pooling_mode_cls_token"))
