"""A teacher of embeddings and a simple classifier of them.

Where each label has few texts, it learns more from them than a fine-tuned model may.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from kdcli.data.column_access import sample_texts
from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.errors import DataError
from kdcli.evaluation.calibration.temperature import fit_temperature
from kdcli.losses.tensor_ops import mean_pool
from kdcli.models import model_io
from kdcli.models.batch_inference import Batch, predict_batches
from kdcli.models.padding import align_padding, create_collator
from kdcli.models.sequence_length import get_max_length
from kdcli.recipe.black_box_teachers import EmbeddingTeacherConfig
from kdcli.tasks import SINGLE_LABEL
from kdcli.teachers.base import MIN_PROBABILITY, BlackBoxContext, PredictLogits, ProgressCallback

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

_BATCH = 64
_HEAD_FILE = "head.npz"
# How little the logistic regression is held back; what suits the validation texts is taken.
_INVERSE_REGULARIZATIONS = (1.0, 10.0, 100.0)


def check_teacher(config: EmbeddingTeacherConfig, context: BlackBoxContext) -> None:
    """See that the model is there, and that each text has one label.

    Raises:
        ModelError: It isn't.
        DataError: A text has several labels, or a score.
    """
    if context.dataset_splits.task is not SINGLE_LABEL:
        raise DataError(
            f"A teacher of embeddings is for {SINGLE_LABEL}, not {context.dataset_splits.task}."
        )
    folder = model_io.locate_model(config.model, config.revision, allow_pickle=context.allow_pickle)
    model_io.load_config(folder)
    model_io.load_tokenizer(folder)


def fit_teacher(config: EmbeddingTeacherConfig, context: BlackBoxContext) -> None:
    """Fit the classifier to the training texts, and write it into the teacher's folder."""
    corpus, model = context.dataset_splits, _TextEmbedder(config, context)
    places = range(len(corpus.label_names))
    truths = {part: corpus.ground_truth_labels(corpus.splits[part], places, len(corpus.label_names))
              for part in ("train", "validation")}  # fmt: skip
    train, held = (model(corpus.splits[part]) for part in truths)
    if config.head == "nearest_centroid":
        weight, bias = _fit_nearest_mean_head(train, truths["train"], len(corpus.label_names))
        weight /= fit_temperature(held @ weight.T + bias, truths["validation"], corpus.task)
    else:
        heads = [
            _fit_logistic_head(train, truths["train"], len(places), c)
            for c in _INVERSE_REGULARIZATIONS
        ]
        assert SINGLE_LABEL.log_loss is not None
        losses = [SINGLE_LABEL.log_loss(held @ w.T + b, truths["validation"]) for w, b in heads]
        weight, bias = heads[int(np.argmin(losses))]
    with (context.teacher_folder / _HEAD_FILE).open("wb") as file:
        np.savez(file, weight=weight.astype(np.float32), bias=bias.astype(np.float32))


def load_predictor(config: EmbeddingTeacherConfig, context: BlackBoxContext) -> PredictLogits:
    """Load the encoder: what the classifier makes of each text's embedding, (texts, labels)."""
    with np.load(context.teacher_folder / _HEAD_FILE) as head:
        weight, bias = head["weight"], head["bias"]
    embed = _TextEmbedder(config, context)

    def logits(split: "Dataset", advance: ProgressCallback) -> np.ndarray:
        found: np.ndarray = embed(split, advance) @ weight.T + bias
        return found.astype(np.float32)

    return logits


def _fit_nearest_mean_head(
    embeddings: np.ndarray, label_ids: np.ndarray, num_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = np.zeros((num_labels, embeddings.shape[1])), np.zeros(num_labels)
    for label in range(num_labels):
        if (own := embeddings[label_ids == label]).size:
            weight[label] = F.normalize(torch.from_numpy(own.mean(0)), dim=0).numpy()
        else:
            bias[label] = np.log(MIN_PROBABILITY)
    return weight, bias


def _fit_logistic_head(
    embeddings: np.ndarray, label_ids: np.ndarray, num_labels: int, inverse_regularization: float
) -> tuple[np.ndarray, np.ndarray]:
    # Every plan looks at the kinds of teachers, and this takes a second to import.
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=inverse_regularization, max_iter=1000).fit(embeddings, label_ids)
    weight, bias = (
        np.zeros((num_labels, embeddings.shape[1])),
        np.full(num_labels, np.log(MIN_PROBABILITY)),
    )
    if len(fitted.classes_) > 2:
        weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
    else:
        one, other = fitted.classes_
        bias[one] = 0.0
        weight[other], bias[other] = fitted.coef_[0], fitted.intercept_[0]
    return weight, bias


class _TextEmbedder:
    """Embeddings of length 1, as sentence-transformers makes them: first token, or mean."""

    def __init__(self, config: EmbeddingTeacherConfig, context: BlackBoxContext) -> None:
        folder = model_io.locate_model(
            config.model, config.revision, allow_pickle=context.allow_pickle
        )
        model = model_io.load_classifier(folder, ("0", "1"), allow_new_head=True)
        self.tokenizer = model_io.load_tokenizer(folder)
        self.max_length = get_max_length(model, self.tokenizer, context.data_config.max_length)
        texts = sample_texts(context.dataset_splits.splits["train"])
        align_padding(model, self.tokenizer, config.model, texts, max_length=self.max_length)
        self.model = model.base_model
        self.cls_pooling = _uses_cls_pooling(folder)

    def __call__(
        self, dataset: "Dataset", advance: ProgressCallback = lambda done, total: None
    ) -> np.ndarray:
        """(texts, width), float32."""
        rows = tokenize_dataset(dataset, self.tokenizer, self.max_length)
        collator = create_collator(self.model, self.tokenizer)
        (embeddings,) = predict_batches(
            self.model, collator, rows, _BATCH, forward=self._embed, advance=advance
        )
        return embeddings

    def _embed(self, batch: Batch) -> "list[Tensor]":
        return [self._pool(self.model(**batch).last_hidden_state, batch["attention_mask"])]

    def _pool(self, hidden_states: "Tensor", attention_mask: "Tensor") -> "Tensor":
        return F.normalize(
            hidden_states[:, 0] if self.cls_pooling else mean_pool(hidden_states, attention_mask)
        )


def _uses_cls_pooling(folder: Path) -> bool:
    """Whether a sentence-transformers folder says that its first token stands for the text."""
    try:
        told = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and bool(told.get("pooling_mode_cls_token"))
