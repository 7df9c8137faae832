"""A classifier in PyTorch, to label texts with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcli.data.tokenization.tokenize import tokenize_texts
from kdcli.data.tokenization.windows import TEXT_INDEX, average_windows
from kdcli.models import model_io
from kdcli.models.device import inference_device
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.padding_invariance import choose_invariant_padding, create_collator
from kdcli.models.sequence_length import get_max_length
from kdcli.runtime import Text, TextClassifier, Truncation, no_tokens_error

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH_SIZE = 32


class TorchClassifier(TextClassifier):
    """A model folder in PyTorch; a text's answer does not depend on the texts beside it.

    Args:
        folder: A model folder.
        name: Name of the model in messages. Default: the folder.
        device: `cpu`, `cuda`, `mps`, … Default: the accelerator if there is one, else the CPU.
        max_length: Tokens to keep of a text. Default: as in training.
        truncation: Tokens to keep of a longer text. Default: as in training.

    Raises:
        ModelError: The folder holds no classifier that kd can run.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        device: str | None = None,
        max_length: int | None = None,
        truncation: Truncation | None = None,
    ) -> None:
        path = Path(folder)
        config = model_io.load_config(path)
        labels = model_io.get_label_names(config)
        default_task = "regression" if len(labels) == 1 else "single_label_classification"
        task = config.problem_type or default_task
        super().__init__(path, labels, task, max_length=max_length, truncation=truncation)
        model, self._tokenizer = model_io.load_classifier(path), model_io.load_tokenizer(path)
        self._max_length = get_max_length(model, self._tokenizer, self.max_length)
        choose_invariant_padding(
            model,
            self._tokenizer,
            name or str(folder),
            max_length=self._max_length,
            truncation=self.truncation,
        )
        self._model = model.to(inference_device() if device is None else torch.device(device))
        self._collator = create_collator(model, self._tokenizer)

    def _compute_logits(
        self,
        texts: Sequence[Text],
        first_index: int,
        batch_size: int | None,
        advance: Callable[[int, int], None],
    ) -> np.ndarray:
        rows = self._tokenize(texts, first_index)
        logits = predict_logits(
            self._model, self._collator, rows, batch_size or _BATCH_SIZE, advance
        )
        return average_windows(logits, rows)

    def _tokenize(self, texts: Sequence[Text], first_index: int) -> "Dataset":
        """Tokenize texts: one row for each, or for each of its windows."""
        from datasets import Dataset

        columns = [*zip(*((t,) if isinstance(t, str) else t for t in texts), strict=True)]
        encoding = tokenize_texts(self._tokenizer, columns, self._max_length, self.truncation)
        text_indices = encoding.get(TEXT_INDEX, range(len(texts)))
        for index, ids in zip(text_indices, encoding["input_ids"], strict=True):
            if not ids:
                raise no_tokens_error(first_index + index, texts[index])
        return Dataset.from_dict(encoding)
