"""The last layer on the first token only: less work, the same logits and gradients."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMConfig,
    XLMForSequenceClassification,
)

from kdcli.models.cls_only import last_layer_cls_only

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 64}  # fmt: skip
READ_ONE = [
    BertForSequenceClassification(BertConfig(**SMALL)),
    RobertaForSequenceClassification(RobertaConfig(**SMALL)),
    MPNetForSequenceClassification(MPNetConfig(**SMALL)),
    DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=64)
    ),
]
BATCH = {
    "input_ids": torch.tensor([[2, 7, 9, 11], [2, 8, 1, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
}


def name(model):
    return model.config.model_type


def rows_computed(model):
    """How many tokens the widest matrix product of the last layer gets."""
    seen = []
    wide = [m for m in model.modules() if getattr(m, "out_features", 0) == 64][-1]
    hook = wide.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    logits = model(**BATCH).logits
    hook.remove()
    return seen[0], logits


@pytest.mark.parametrize("model", READ_ONE, ids=name)
def test_last_layer_computes_one_token_with_the_same_logits(model):
    model.eval()
    tokens, whole = rows_computed(model)
    assert tokens == 4
    with last_layer_cls_only(model) as less:
        assert less
        tokens, logits = rows_computed(model)
    assert tokens == 1
    torch.testing.assert_close(logits, whole)
    assert rows_computed(model)[0] == 4


@pytest.mark.parametrize("model", READ_ONE, ids=name)
def test_gradients_are_unchanged(model):
    found = []
    for less in (False, True):
        model.zero_grad()
        with last_layer_cls_only(model.eval()) if less else torch.enable_grad():
            model(**BATCH).logits.square().sum().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*found)


def test_training_mode_is_restored():
    model = READ_ONE[0].train()
    with last_layer_cls_only(model):
        assert model.training


class MeanHead(torch.nn.Module):
    """Reads all tokens, as some classifiers do."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(16, 2)

    def forward(self, features, **_):
        return self.out(features.mean(1))


def test_head_that_reads_all_tokens_disables_it():
    model = RobertaForSequenceClassification(RobertaConfig(**SMALL)).eval()
    model.classifier = MeanHead()
    whole = model(**BATCH).logits
    with last_layer_cls_only(model) as less:
        assert not less
        torch.testing.assert_close(model(**BATCH).logits, whole)


@pytest.mark.parametrize(
    "model",
    [
        GPT2ForSequenceClassification(
            GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, pad_token_id=1)
        ),
        XLMForSequenceClassification(XLMConfig(vocab_size=50, emb_dim=16, n_layers=2, n_heads=2)),
    ],
    ids=name,
)
def test_other_architectures_are_left_unchanged(model):
    with last_layer_cls_only(model.eval()) as less:
        assert not less
