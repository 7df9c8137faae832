"""Models to evaluate: in PyTorch, or in the runtime in which they are deployed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcli.data import column_access
from kdcli.data.tokenization.tokenize import encoding_to_rows, tokenize_dataset, tokenize_texts
from kdcli.data.tokenization.windows import average_windows
from kdcli.evaluation.predict.penultimate_features import predict_logits_and_features
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.padding_invariance import create_collator
from kdcli.progress import StageProgress
from kdcli.recipe.data import TruncationMode

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kdcli.runtime import Classifier, Text, TextClassifier


@dataclass(frozen=True)
class ClassifierOutputs:
    """Outputs of a model on a split.

    Attributes:
        logits: float32, (texts, labels).
        features: float32, (texts, width), the inputs of the last linear layer; None if they were
            not requested, or the model has no such layer.
    """

    logits: np.ndarray
    features: np.ndarray | None


@dataclass(frozen=True)
class EvalModel:
    """A model to evaluate, with its tokenizer.

    Attributes:
        labels: The names of its outputs; those of the data if the model has no names.
        max_length: The number of tokens of a text that it reads.
        truncation: The tokens to keep of a longer text.
    """

    name: str
    folder: Path
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    labels: tuple[str, ...]
    max_length: int
    truncation: TruncationMode | None = None

    def tokenize_batch(self, texts: Sequence[tuple[str, ...]]) -> dict[str, torch.Tensor]:
        """Tokenize texts, or pairs of texts, as one padded batch of texts or of their windows."""
        columns = [*zip(*texts, strict=True)]
        encoding = tokenize_texts(self.tokenizer, columns, self.max_length, self.truncation)
        return create_collator(self.model, self.tokenizer)(encoding_to_rows(encoding))

    def predict_class_ids(self, texts: Sequence[tuple[str, ...]]) -> list[int]:
        """Return the index of the highest logit, for each text or window."""
        batch = self.tokenize_batch(texts)
        with torch.inference_mode():
            return self.model(**batch).logits.argmax(-1).tolist()

    def predict(
        self, dataset: "Dataset", batch_size: int, progress: StageProgress, *, with_features: bool
    ) -> ClassifierOutputs:
        """Run the model over a split; its labels are in the model's own order."""
        encoded = tokenize_dataset(dataset, self.tokenizer, self.max_length, self.truncation)
        collate, features = create_collator(self.model, self.tokenizer), None
        if with_features:
            logits, features = predict_logits_and_features(
                self.model, collate, encoded, batch_size, progress
            )
        else:
            logits = predict_logits(self.model, collate, encoded, batch_size, progress)
        return ClassifierOutputs(
            average_windows(logits, encoded),
            None if features is None else average_windows(features, encoded),
        )


@dataclass(frozen=True)
class RuntimeEvalModel:
    """A model to evaluate that runs as it is deployed: an export, or a student of another family.

    Attributes:
        labels: The names of its outputs; those of the data if the model has no names.
        classifier: Runs the model.
    """

    name: str
    labels: tuple[str, ...]
    classifier: "TextClassifier"

    def predict_class_ids(self, texts: Sequence[tuple[str, ...]]) -> list[int]:
        """Return the index of the highest logit, for each text."""
        logits = self.classifier.predict_logits([*map(_text_or_pair, texts)])
        return logits.argmax(-1).tolist()

    def predict(
        self, dataset: "Dataset", batch_size: int, progress: StageProgress, *, with_features: bool
    ) -> ClassifierOutputs:
        """Run the model over a split; its labels are in the model's own order.

        The runtime chooses the batches, and gives no features.
        """
        texts = [*map(_text_or_pair, column_access.get_text_tuples(dataset))]
        return ClassifierOutputs(self.classifier.predict_logits(texts, advance=progress), None)


def load_onnx_classifier(
    file: Path, max_length: int | None = None, truncation: TruncationMode | None = None
) -> "Classifier":
    """Load an ONNX file that `kd export` wrote into a model folder.

    Args:
        file: The file in the folder `onnx` of a model folder.
        max_length: Tokens to keep of a text. Default: as in training.
        truncation: Tokens to keep of a longer text. Default: as in training.

    Raises:
        ModelError: A file is missing or damaged.
        UsageError: onnxruntime is not installed.
    """
    from kdcli.runtime import Classifier

    return Classifier(
        file.parent.parent,
        file=file.name,
        num_threads=torch.get_num_threads(),
        max_length=max_length,
        truncation=truncation,
    )


def _text_or_pair(columns: tuple[str, ...]) -> "Text":
    return columns[0] if len(columns) == 1 else (columns[0], columns[1])
