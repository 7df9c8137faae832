"""Text embeddings with a simple classifier on top, fitted to the training texts.

With few texts per label it can be more accurate than a fine-tuned model.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from kdcli.data.column_access import sample_texts
from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.errors import DataError
from kdcli.evaluation.calibration.temperature import fit_temperature
from kdcli.models import model_io
from kdcli.models.batch_inference import Batch, predict_batches
from kdcli.models.encoder_head import find_pooling, pool_hidden_states
from kdcli.models.padding_invariance import choose_invariant_padding, create_collator
from kdcli.models.sequence_length import get_max_length
from kdcli.recipe.black_box_teachers import EmbeddingTeacherConfig
from kdcli.tasks import SINGLE_LABEL
from kdcli.teachers.black_box_context import BlackBoxContext, PredictLogits, ProgressCallback
from kdcli.teachers.logit_conversion import MIN_PROBABILITY

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

_BATCH = 64
_HEAD_FILE = "head.npz"
# Values of C to try; the one with the lowest validation loss is kept.
_INVERSE_REGULARIZATIONS = (1.0, 10.0, 100.0)


def check_teacher(config: EmbeddingTeacherConfig, context: BlackBoxContext) -> None:
    """Check that the model exists, and that each text has one label.

    Raises:
        ModelError: It doesn't.
        DataError: The texts have several labels, or scores.
    """
    if context.dataset_splits.task is not SINGLE_LABEL:
        raise DataError(
            f"An embeddings teacher is for {SINGLE_LABEL}, not {context.dataset_splits.task}."
        )
    folder = model_io.locate_model(config.model, config.revision, allow_pickle=context.allow_pickle)
    model_io.load_config(folder)
    model_io.load_tokenizer(folder)


def fit_teacher(config: EmbeddingTeacherConfig, context: BlackBoxContext) -> None:
    """Fit the classifier to the training texts, and write it to the teacher's folder."""
    corpus, model = context.dataset_splits, _TextEmbedder(config, context)
    num_labels = len(corpus.label_names)
    truths = {
        part: corpus.ground_truth_labels(corpus.splits[part], range(num_labels), num_labels)
        for part in ("train", "validation")
    }
    train, held = (model(corpus.splits[part]) for part in truths)
    if config.head == "nearest_centroid":
        weight, bias = _fit_nearest_mean_head(train, truths["train"], num_labels)
        weight /= fit_temperature(held @ weight.T + bias, truths["validation"], corpus.task)
    else:
        heads = [
            _fit_logistic_head(train, truths["train"], num_labels, c)
            for c in _INVERSE_REGULARIZATIONS
        ]
        assert SINGLE_LABEL.log_loss is not None
        losses = [SINGLE_LABEL.log_loss(held @ w.T + b, truths["validation"]) for w, b in heads]
        weight, bias = heads[int(np.argmin(losses))]
    with (context.teacher_folder / _HEAD_FILE).open("wb") as file:
        np.savez(file, weight=weight.astype(np.float32), bias=bias.astype(np.float32))


def create_predictor(config: EmbeddingTeacherConfig, context: BlackBoxContext) -> PredictLogits:
    """Load encoder and classifier, and return their predictor."""
    with np.load(context.teacher_folder / _HEAD_FILE) as head:
        weight, bias = head["weight"], head["bias"]
    embed = _TextEmbedder(config, context)

    def predict(split: "Dataset", advance: ProgressCallback) -> np.ndarray:
        logits: np.ndarray = embed(split, advance) @ weight.T + bias
        return logits.astype(np.float32)

    return predict


def _fit_nearest_mean_head(
    embeddings: np.ndarray, label_ids: np.ndarray, num_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = np.zeros((num_labels, embeddings.shape[1])), np.zeros(num_labels)
    for label in range(num_labels):
        if (members := embeddings[label_ids == label]).size:
            weight[label] = F.normalize(torch.from_numpy(members.mean(0)), dim=0).numpy()
        else:
            bias[label] = np.log(MIN_PROBABILITY)
    return weight, bias


def _fit_logistic_head(
    embeddings: np.ndarray, label_ids: np.ndarray, num_labels: int, inverse_regularization: float
) -> tuple[np.ndarray, np.ndarray]:
    # Takes a second to import.
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=inverse_regularization, max_iter=1000).fit(embeddings, label_ids)
    weight, bias = (
        np.zeros((num_labels, embeddings.shape[1])),
        np.full(num_labels, np.log(MIN_PROBABILITY)),
    )
    if len(fitted.classes_) > 2:
        weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
    else:
        first, second = fitted.classes_
        bias[first] = 0.0
        weight[second], bias[second] = fitted.coef_[0], fitted.intercept_[0]
    return weight, bias


class _TextEmbedder:
    """Unit-length embeddings, as in sentence-transformers: of the first token, or the mean."""

    def __init__(self, config: EmbeddingTeacherConfig, context: BlackBoxContext) -> None:
        folder = model_io.locate_model(
            config.model, config.revision, allow_pickle=context.allow_pickle
        )
        model = model_io.load_classifier(folder, ("0", "1"), allow_new_head=True)
        self.tokenizer = model_io.load_tokenizer(folder)
        self.max_length = get_max_length(model, self.tokenizer, context.data_config.max_length)
        texts = sample_texts(context.dataset_splits.splits["train"])
        choose_invariant_padding(
            model, self.tokenizer, config.model, texts, max_length=self.max_length
        )
        self.model = model.base_model
        self.pooling = find_pooling(folder)

    def __call__(
        self, dataset: "Dataset", advance: ProgressCallback = lambda done, total: None
    ) -> np.ndarray:
        """Return the embeddings, float32, (texts, width)."""
        rows = tokenize_dataset(dataset, self.tokenizer, self.max_length)
        collator = create_collator(self.model, self.tokenizer)
        (embeddings,) = predict_batches(
            self.model, collator, rows, _BATCH, forward=self._embed, advance=advance
        )
        return embeddings

    def _embed(self, batch: Batch) -> "list[Tensor]":
        hidden_states = self.model(**batch).last_hidden_state
        return [
            pool_hidden_states(hidden_states, batch["attention_mask"], self.pooling, normalize=True)
        ]
