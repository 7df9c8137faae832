"""Shape of a TF-IDF student for transformers: a row of weights for each n-gram.

It says how large the student is; `kdcli.tfidf_runtime` runs it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from kdcli.tfidf_runtime import TFIDF_MODEL_TYPE


class TfidfConfig(PretrainedConfig):
    """Configuration of `TfidfForSequenceClassification`.

    Args:
        vocab_size: Number of n-grams.
        **kwargs: Other entries.
    """

    model_type = TFIDF_MODEL_TYPE

    def __init__(self, *, vocab_size: int = 1, **kwargs: Any) -> None:
        self.vocab_size, self.num_hidden_layers = vocab_size, 0
        super().__init__(**kwargs)


class TfidfForSequenceClassification(PreTrainedModel):
    """The sum of the weights of a text's n-grams.

    Attributes:
        features: The n-grams, a `TfidfFeatures`, from the family to the student's folder.
    """

    config_class = TfidfConfig
    base_model_prefix = "tfidf"

    def __init__(self, config: TfidfConfig) -> None:
        super().__init__(config)
        self.features: Any = None
        self.embeddings = nn.Embedding(config.vocab_size, config.num_labels)
        self.idf = nn.Parameter(torch.ones(config.vocab_size))
        self.bias = nn.Parameter(torch.zeros(config.num_labels))
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the weights."""
        return self.embeddings

    def forward(self, input_ids: Tensor, **_: Any) -> SequenceClassifierOutput:
        """Compute logits, (texts, labels), of the numbers of n-grams, without the text's norm."""
        weights = self.idf[input_ids][..., None]
        logits = (weights * self.embeddings(input_ids)).sum(1) + self.bias
        return SequenceClassifierOutput(logits=logits)


AutoConfig.register(TFIDF_MODEL_TYPE, TfidfConfig)
AutoModelForSequenceClassification.register(TfidfConfig, TfidfForSequenceClassification)
