"""A frozen encoder with a linear layer on its text embeddings, as a classifier of transformers.

The embedding is the mean of the last hidden states, or the first token's, scaled to length 1, as
sentence-transformers computes it. No class of transformers does so; the folder loads wherever this
module is imported.
"""

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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

from kdcli.losses.tensor_ops import mean_pool

if TYPE_CHECKING:
    from collections.abc import Mapping

ENCODER_HEAD_MODEL_TYPE = "kd_encoder_head"
Pooling = Literal["mean", "cls"]


class EncoderHeadConfig(PretrainedConfig):
    """Configuration of `EncoderHeadForSequenceClassification`.

    Args:
        text_config: The encoder's configuration.
        pooling: `mean` of the tokens' hidden states, or that of the first token, `cls`.
        normalize: Scale embeddings to length 1.
        **kwargs: Other entries.
    """

    model_type = ENCODER_HEAD_MODEL_TYPE
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 - as in transformers

    def __init__(
        self,
        *,
        text_config: "Mapping[str, Any] | PretrainedConfig | None" = None,
        pooling: Pooling = "mean",
        normalize: bool = True,
        **kwargs: Any,
    ) -> None:
        encoder: Any = text_config
        if not isinstance(encoder, PretrainedConfig):
            encoder = AutoConfig.for_model(**(encoder or {"model_type": "bert"}))
        self.text_config, self.pooling, self.normalize = encoder, pooling, normalize
        # For libraries that read the sizes.
        self.hidden_size = encoder.hidden_size
        self.num_hidden_layers = encoder.num_hidden_layers
        super().__init__(**kwargs)


class EncoderHeadForSequenceClassification(PreTrainedModel):
    """Text embeddings of an encoder, and a linear layer."""

    config_class = EncoderHeadConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EncoderHeadConfig) -> None:
        super().__init__(config)
        # As in the classifier of the same architecture: some encoders lack a pooler there.
        self.encoder = AutoModelForSequenceClassification.from_config(config.text_config).base_model
        self.classifier = nn.Linear(config.text_config.hidden_size, config.num_labels)
        self._encoder_inputs = set(inspect.signature(self.encoder.forward).parameters)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's token embeddings."""
        return self.encoder.get_input_embeddings()

    def embed(self, **batch: Tensor | None) -> Tensor:
        """Compute embeddings, (texts, width).

        Args:
            **batch: `input_ids`, (texts, tokens), and the encoder's other inputs.
        """
        inputs = {
            name: value
            for name, value in batch.items()
            if value is not None and name in self._encoder_inputs
        }
        hidden = self.encoder(**inputs).last_hidden_state
        mask = batch.get("attention_mask")
        if mask is None:
            mask = torch.ones(hidden.shape[:2], device=hidden.device)
        return pool_hidden_states(hidden, mask, self.config.pooling, self.config.normalize)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Compute logits, (texts, labels).

        Args:
            input_ids: (texts, tokens).
            attention_mask: 1 for tokens and 0 for padding.
            token_type_ids: The text of a pair that each token belongs to.
        """
        embeddings = self.embed(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        return SequenceClassifierOutput(logits=self.classifier(embeddings))


def pool_hidden_states(
    hidden_states: Tensor, attention_mask: Tensor, pooling: Pooling, normalize: bool
) -> Tensor:
    """Turn the last hidden states into embeddings, (texts, width), as sentence-transformers does.

    Args:
        hidden_states: (texts, tokens, width).
        attention_mask: (texts, tokens).
        pooling: `mean` of the tokens, or the first one, `cls`.
        normalize: Scale embeddings to length 1.
    """
    if pooling == "cls":
        # The first token, wherever the padding is.
        first = attention_mask.argmax(1)
        pooled = hidden_states[torch.arange(len(first), device=first.device), first]
    else:
        pooled = mean_pool(hidden_states, attention_mask)
    return F.normalize(pooled) if normalize else pooled


def find_pooling(folder: Path) -> Pooling:
    """Return how a sentence-transformers folder pools; `mean` for any other folder."""
    try:
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "mean"
    uses_cls = isinstance(pooling, dict) and bool(pooling.get("pooling_mode_cls_token"))
    return "cls" if uses_cls else "mean"


AutoConfig.register(ENCODER_HEAD_MODEL_TYPE, EncoderHeadConfig)
AutoModelForSequenceClassification.register(EncoderHeadConfig, EncoderHeadForSequenceClassification)
