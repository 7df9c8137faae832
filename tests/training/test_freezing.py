"""What a fit leaves alone."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from kdcli.errors import RecipeError
from kdcli.training.dropout import temporary_dropout
from kdcli.training.freezing import freeze_layers

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
         "intermediate_size": 32, "pad_token_id": 0}  # fmt: skip
MODELS = [
    BertForSequenceClassification(BertConfig(**SIZES)),
    GPT2ForSequenceClassification(
        GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, pad_token_id=0)
    ),
    LlamaForSequenceClassification(LlamaConfig(**SIZES, attention_dropout=0.5)),
    ModernBertForSequenceClassification(
        ModernBertConfig(**SIZES, attention_dropout=0.5, mlp_dropout=0.5, cls_token_id=1,
                         sep_token_id=2, bos_token_id=1, eos_token_id=2)
    ),
]  # fmt: skip
TOKENS = torch.arange(3, 23).view(2, 10)


def name(model):
    return model.config.model_type


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_without_dropout_training_draws_nothing(model):
    model.train()
    first, second = (model(TOKENS).logits for _ in range(2))
    assert not torch.equal(first, second)
    with temporary_dropout(model, 0.0):
        torch.testing.assert_close(model(TOKENS).logits, model(TOKENS).logits, rtol=0, atol=0)
    assert not torch.equal(model(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize("model", MODELS, ids=name)
@pytest.mark.parametrize("layers", [0, 2])
def test_frozen_layers_get_no_gradient_and_the_others_do(model, layers):
    model.eval().zero_grad()
    with freeze_layers(model, layers):
        model(TOKENS).logits.square().sum().backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    numbered = {int(part) for n in trained for part in n.split(".") if part.isdigit()}
    assert numbered == set(range(layers, 3))
    assert model.get_input_embeddings().weight.grad is None
    assert any("score" in n or "classifier" in n for n in trained)
    assert all(p.requires_grad for p in model.parameters())


def test_more_layers_than_there_are():
    said = "freeze_layers is 4, and the model has 3 layers"
    with pytest.raises(RecipeError, match=said), freeze_layers(MODELS[0], 4):
        pass
