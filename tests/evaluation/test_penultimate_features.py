"""What the last layer reads is what makes its logits."""

import numpy as np
import pytest
import torch
from transformers import (
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.pytorch_utils import Conv1D

from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.evaluation.predict.penultimate_features import predict_logits_and_features
from kdcli.models.padding_invariance import create_collator

SMALL = {"num_labels": 5, "vocab_size": 700, "pad_token_id": 0}
MODELS = {
    "bert": lambda config: BertForSequenceClassification(
        type(config)(**{**config.to_dict(), "num_labels": 5})
    ),
    "distilbert": lambda _: DistilBertForSequenceClassification(
        DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **SMALL)
    ),
    "roberta": lambda _: RobertaForSequenceClassification(
        RobertaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                      intermediate_size=64, **SMALL)
    ),
    "gpt2": lambda _: GPT2ForSequenceClassification(
        GPT2Config(n_embd=32, n_layer=2, n_head=2, **SMALL)
    ),
}  # fmt: skip


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_head_makes_the_logits_of_the_states(kind, side, config, tokenizer, help_desk):
    torch.manual_seed(0)
    model = MODELS[kind](config).eval()
    tokenizer = tokenizer.__class__(vocab=tokenizer.get_vocab(), padding_side=side)
    encoded = tokenize_dataset(
        help_desk["test"].select_columns("text").select(range(40)), tokenizer, 64
    )
    logits, features = predict_logits_and_features(
        model, create_collator(model, tokenizer), encoded, 8
    )
    head = next(m for m in reversed(list(model.modules()))
                if isinstance(m, torch.nn.Linear) and m.out_features == 5)  # fmt: skip
    assert features.shape == (40, 32)
    with torch.inference_mode():
        again = head(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(again, logits, atol=1e-5)
    assert not head._forward_pre_hooks


def test_a_model_without_a_linear_head_has_no_features(config, tokenizer, help_desk):
    model = MODELS["bert"](config)
    model.classifier = Conv1D(5, 32)
    encoded = tokenize_dataset(help_desk["test"].select_columns("text"), tokenizer, 64)
    logits, features = predict_logits_and_features(
        model, create_collator(model, tokenizer), encoded.select(range(3)), 8
    )
    assert logits.shape == (3, 5)
    assert features is None
