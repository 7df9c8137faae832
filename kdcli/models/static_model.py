"""A table of token vectors and a small head: a classifier without attention, to train in PyTorch.

A text's representation is the mean of its tokens' vectors, as in model2vec; `kdcli.static_runtime`
runs the trained model without PyTorch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

STATIC_MODEL_TYPE = "kd_static"


class StaticConfig(PretrainedConfig):
    """Configuration of `StaticForSequenceClassification`.

    Args:
        vocab_size: Number of tokens.
        hidden_size: Width of a token's vector.
        head_width: Neurons of the head's hidden layer; 0 for a linear head.
        normalize: Scale all mean vectors to the same length, the square root of the width.
        hidden_dropout_prob: Dropout of the head's inputs.
        token_dropout: Share of a text's tokens that are left out of the mean in training.
        pad_token_id: The padding token.
        unk_token_id: The unknown token, which counts for nothing, as in model2vec.
        **kwargs: Other entries.
    """

    model_type = STATIC_MODEL_TYPE

    def __init__(
        self,
        *,
        vocab_size: int = 1,
        hidden_size: int = 256,
        head_width: int = 512,
        normalize: bool = False,
        hidden_dropout_prob: float = 0.0,
        token_dropout: float = 0.0,
        pad_token_id: int | None = 0,
        unk_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.head_width = vocab_size, hidden_size, head_width
        self.normalize, self.unk_token_id = normalize, unk_token_id
        self.hidden_dropout_prob, self.token_dropout = hidden_dropout_prob, token_dropout
        self.num_hidden_layers = 0
        super().__init__(**kwargs)
        self.pad_token_id = pad_token_id


class StaticForSequenceClassification(PreTrainedModel):
    """The mean of a text's token vectors, and a head of one or two linear layers."""

    config_class = StaticConfig
    base_model_prefix = "static"

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        width, labels = config.hidden_size, config.num_labels
        self.embeddings = nn.Embedding(config.vocab_size, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.hidden = nn.Linear(width, config.head_width) if config.head_width else None
        self.classifier = nn.Linear(config.head_width or width, labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table of vectors."""
        return self.embeddings

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Compute logits, (texts, labels).

        Args:
            input_ids: (texts, tokens).
            attention_mask: 1 for tokens and 0 for padding.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = mask.to(self.embeddings.weight.dtype)
        if self.config.unk_token_id is not None:
            mask = mask * (input_ids != self.config.unk_token_id)
        if self.training and self.config.token_dropout:
            kept = mask * (torch.rand_like(mask) >= self.config.token_dropout)
            mask = torch.where(kept.sum(1, keepdim=True) > 0, kept, mask)
        vectors = self.embeddings(input_ids)
        text = (vectors * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        if self.config.normalize:
            # A variance of 1 for each of the head's inputs.
            text = F.normalize(text) * self.config.hidden_size**0.5
        text = self.dropout(text)
        if self.hidden is not None:
            text = self.dropout(torch.relu(self.hidden(text)))
        return SequenceClassifierOutput(logits=self.classifier(text))


AutoConfig.register(STATIC_MODEL_TYPE, StaticConfig)
AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification)
