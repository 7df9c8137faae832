"""Convert BERT to DistilBERT: the same encoder without token-type embeddings and pooler.

DistilBERT (Sanh et al. 2019, arXiv:1910.01108, section 3) has neither. For single texts the
token-type embedding is one constant vector, so adding it to every position embedding leaves the
encoder's outputs unchanged.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdcli.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DistilBertConfig

_LAYER_NORM_EPSILON = 1e-12  # hard-coded in DistilBERT
_POSITION_EMBEDDINGS = "bert.embeddings.position_embeddings.weight"
_TOKEN_TYPE_EMBEDDINGS = "bert.embeddings.token_type_embeddings.weight"
_PARAMETER_NAME_MAPPING = {
    "bert.embeddings.": "distilbert.embeddings.",
    "bert.encoder.layer.": "distilbert.transformer.layer.",
    ".attention.self.query.": ".attention.q_lin.",
    ".attention.self.key.": ".attention.k_lin.",
    ".attention.self.value.": ".attention.v_lin.",
    ".attention.output.dense.": ".attention.out_lin.",
    ".attention.output.LayerNorm.": ".sa_layer_norm.",
    ".intermediate.dense.": ".ffn.lin1.",
    ".output.dense.": ".ffn.lin2.",
    ".output.LayerNorm.": ".output_layer_norm.",
    "bert.pooler.dense.": "pre_classifier.",
}
_PARAMETER_NAME_PATTERN = re.compile(
    "|".join(re.escape(old) for old in sorted(_PARAMETER_NAME_MAPPING, key=len, reverse=True))
)


def incompatibility_reason(config: Any) -> str | None:
    """Explain why a model of this configuration can't become a DistilBERT; None where it can."""
    if config.model_type != "bert":
        return f"it is of type {config.model_type}, not bert"
    if config.layer_norm_eps != _LAYER_NORM_EPSILON:
        return f"its layer_norm_eps is {config.layer_norm_eps}, not {_LAYER_NORM_EPSILON}"
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return f"its positions are {config.position_embedding_type}, not absolute"
    return None


def convert_config(bert_config: Any, num_layers: int) -> "DistilBertConfig":
    """Build the DistilBERT configuration for `num_layers` layers of a BERT classifier.

    Raises:
        ModelError: The model can't become a DistilBERT.
    """
    from transformers import DistilBertConfig

    reason = incompatibility_reason(bert_config)
    if reason:
        raise ModelError(
            f"student.architecture: the teacher can't become a DistilBERT: {reason}.",
            "Use student.architecture: same.",
        )
    head_dropout = bert_config.classifier_dropout
    return DistilBertConfig(
        vocab_size=bert_config.vocab_size,
        max_position_embeddings=bert_config.max_position_embeddings,
        n_layers=num_layers,
        n_heads=bert_config.num_attention_heads,
        dim=bert_config.hidden_size,
        hidden_dim=bert_config.intermediate_size,
        dropout=bert_config.hidden_dropout_prob,
        attention_dropout=bert_config.attention_probs_dropout_prob,
        seq_classif_dropout=bert_config.hidden_dropout_prob
        if head_dropout is None
        else head_dropout,
        activation=bert_config.hidden_act,
        initializer_range=bert_config.initializer_range,
        pad_token_id=bert_config.pad_token_id,
        problem_type=bert_config.problem_type,
        id2label=bert_config.id2label,
        label2id=bert_config.label2id,
    )


def convert_state_dict(bert_state_dict: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Rename the tensors of a BERT classifier to DistilBERT's names.

    Row 0 of the token-type embeddings is added to the position embeddings. The pooler becomes the
    head's first layer, and the classifier its second.
    """
    tensors = {
        _PARAMETER_NAME_PATTERN.sub(
            lambda match: _PARAMETER_NAME_MAPPING[match.group()], name
        ): tensor
        for name, tensor in bert_state_dict.items()
        if name != _TOKEN_TYPE_EMBEDDINGS and not name.endswith("_ids")
    }
    positions = _PARAMETER_NAME_PATTERN.sub(
        lambda match: _PARAMETER_NAME_MAPPING[match.group()], _POSITION_EMBEDDINGS
    )
    tensors[positions] = (
        bert_state_dict[_POSITION_EMBEDDINGS] + bert_state_dict[_TOKEN_TYPE_EMBEDDINGS][0]
    )
    return tensors
