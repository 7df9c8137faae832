"""BERT in DistilBERT's form: the same encoder without token types and pooler.

DistilBERT (Sanh et al. 2019, arXiv:1910.01108, section 3) leaves out BERT's token-type embeddings
and pooler. For single texts the token-type embedding is one constant vector, so adding it to every
position's embedding changes nothing that the encoder computes.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdcli.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DistilBertConfig

_LAYER_NORM_EPSILON = 1e-12  # fixed in DistilBERT's code
_POSITIONS = "bert.embeddings.position_embeddings.weight"
_TOKEN_TYPES = "bert.embeddings.token_type_embeddings.weight"
_RENAMED = {
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
_PATTERN = re.compile("|".join(re.escape(old) for old in sorted(_RENAMED, key=len, reverse=True)))


def obstacle(config: Any) -> str | None:
    """Why a model of this configuration can't take DistilBERT's form; None where it can."""
    if config.model_type != "bert":
        return f"it is of type {config.model_type}, not bert"
    if config.layer_norm_eps != _LAYER_NORM_EPSILON:
        return f"its layer_norm_eps is {config.layer_norm_eps}, not {_LAYER_NORM_EPSILON}"
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return f"its positions are {config.position_embedding_type}, not absolute"
    return None


def config_from(bert: Any, layers: int) -> "DistilBertConfig":
    """DistilBERT's configuration for a BERT classifier cut to `layers` layers.

    Raises:
        ModelError: The teacher can't take DistilBERT's form.
    """
    from transformers import DistilBertConfig

    reason = obstacle(bert)
    if reason:
        raise ModelError(
            f"The teacher can't take DistilBERT's form: {reason}.",
            "Use student.architecture: same.",
        )
    head_dropout = bert.classifier_dropout
    return DistilBertConfig(
        vocab_size=bert.vocab_size,
        max_position_embeddings=bert.max_position_embeddings,
        n_layers=layers,
        n_heads=bert.num_attention_heads,
        dim=bert.hidden_size,
        hidden_dim=bert.intermediate_size,
        dropout=bert.hidden_dropout_prob,
        attention_dropout=bert.attention_probs_dropout_prob,
        seq_classif_dropout=bert.hidden_dropout_prob if head_dropout is None else head_dropout,
        activation=bert.hidden_act,
        initializer_range=bert.initializer_range,
        pad_token_id=bert.pad_token_id,
        problem_type=bert.problem_type,
        id2label=bert.id2label,
        label2id=bert.label2id,
    )


def tensors_from(bert: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """A BERT classifier's tensors under DistilBERT's names.

    Row 0 of the token types goes into the positions; the pooler's weights start the head's first
    layer and the classifier's its second.
    """
    tensors = {
        _PATTERN.sub(lambda match: _RENAMED[match.group()], name): tensor
        for name, tensor in bert.items()
        if name != _TOKEN_TYPES and not name.endswith("_ids")
    }
    positions = _PATTERN.sub(lambda match: _RENAMED[match.group()], _POSITIONS)
    tensors[positions] = bert[_POSITIONS] + bert[_TOKEN_TYPES][0]
    return tensors
