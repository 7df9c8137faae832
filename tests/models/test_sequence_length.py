"""The maximum length is found without running the model."""

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    BloomConfig,
    Data2VecTextConfig,
    GPT2Config,
    IBertConfig,
    LukeConfig,
    MarkupLMConfig,
    MPNetConfig,
    NystromformerConfig,
    OPTConfig,
    RobertaConfig,
    T5Config,
    XLMRobertaXLConfig,
    XLNetConfig,
)

from kdcli.models.sequence_length import get_max_length

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 16, "max_position_embeddings": 24}  # fmt: skip
NUMBERED = [
    BertConfig(**SMALL),
    RobertaConfig(**SMALL),
    IBertConfig(**SMALL),
    RobertaConfig(**SMALL | {"pad_token_id": 5}),
    MPNetConfig(**SMALL),
    Data2VecTextConfig(**SMALL),
    XLMRobertaXLConfig(**SMALL),
    LukeConfig(**SMALL, entity_vocab_size=4, entity_emb_size=16),
    MarkupLMConfig(**SMALL),
    NystromformerConfig(**SMALL, num_landmarks=6, segment_means_seq_len=24),
    GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=24, pad_token_id=0),
    OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=16),
    BartConfig(vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
               decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
               max_position_embeddings=24),
]  # fmt: skip
UNLIMITED = [
    T5Config(vocab_size=50, d_model=16, d_kv=8, num_layers=1, num_heads=2, d_ff=32),
    XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=32),
    BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2),
]


class Unlimited:
    """As tokenizers say that their files give no limit."""

    model_max_length = int(1e30)


def reads(model, tokens):
    ids = torch.full((1, tokens), 7)
    ids[0, -1] = 2  # BART answers at the end of the text
    try:
        with torch.no_grad():
            model(input_ids=ids)
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("config", NUMBERED, ids=lambda config: config.model_type)
def test_max_length_is_the_longest_readable_text(config):
    model = AutoModelForSequenceClassification.from_config(config).eval()
    limit = get_max_length(model, Unlimited(), None)
    assert reads(model, limit)
    assert not reads(model, limit + 1) or config.model_type == "nystromformer"


@pytest.mark.parametrize("config", UNLIMITED, ids=lambda config: config.model_type)
def test_no_length_limit_without_position_embeddings(config, tokenizer):
    model = AutoModelForSequenceClassification.from_config(config)
    limit = get_max_length(model, Unlimited(), None)
    assert len(tokenizer("my parcel " * 50, truncation=True, max_length=limit)["input_ids"]) > 64
    assert get_max_length(model, Unlimited(), 12) == 12
    assert get_max_length(model, tokenizer, None) == tokenizer.model_max_length
