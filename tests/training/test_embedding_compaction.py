"""Which models may train a smaller embedding table; the trainer's tests compare the result."""

import pytest
from transformers import AutoModelForSequenceClassification, BartConfig, BertConfig, T5Config

from kdcli.training.embedding_compaction import has_untied_embeddings

NARROW = {"vocab_size": 50, "d_model": 16}
BART = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}  # fmt: skip
BERT = BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)


@pytest.mark.parametrize(
    ("config", "alone"),
    [
        (BERT, True),
        (BartConfig(**NARROW, **BART), False),
        (T5Config(**NARROW, d_kv=8, d_ff=16, num_layers=1, num_heads=2), False),
    ],
    ids=["bert", "bart", "t5"],
)
def test_a_shared_table_stays_whole(config, alone):
    assert has_untied_embeddings(AutoModelForSequenceClassification.from_config(config)) is alone
