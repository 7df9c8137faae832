"""Outputs of a model that a loss compares: attention as it is before dropout."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from kdcli.errors import ModelError
from kdcli.losses.attention_kl import AttentionKL
from kdcli.losses.base import INTERNAL_OUTPUTS, LayerMapping
from kdcli.losses.combined import CombinedLoss
from kdcli.training import model_outputs


@pytest.fixture(scope="module")
def batch(tokenizer):
    encoded = tokenizer(["my parcel", "where is my refund for the parcel"], padding=True)
    return {name: torch.tensor(encoded[name]) for name in ("input_ids", "attention_mask")}


def forward_with_all_outputs(model, batch):
    model_outputs.enable_model_outputs(model, INTERNAL_OUTPUTS)
    return model_outputs.forward_with_hidden(model, batch, INTERNAL_OUTPUTS)


@pytest.fixture(scope="module")
def one_layer(config):
    """A BERT of one layer, with dropout of attention alone: its attention reads what is whole."""
    settings = {"num_hidden_layers": 1, "hidden_dropout_prob": 0.0, "num_labels": 5}
    dropout = {"attention_probs_dropout_prob": 0.5}
    torch.manual_seed(0)
    return BertForSequenceClassification(
        type(config)(**{**config.to_dict(), **settings, **dropout, "attn_implementation": "eager"})
    )


def test_attention_of_a_model_in_training_equals_its_own(one_layer, batch):
    objective = CombinedLoss([AttentionKL()], LayerMapping(32, 32, (0,), 1))
    with torch.no_grad():
        teacher = forward_with_all_outputs(one_layer.eval(), batch)
    student = forward_with_all_outputs(one_layer.train(), batch)
    value = objective(student, teacher, torch.tensor([0, 1]))["attention_kl"]
    assert value.abs() < 1e-6
    layer = one_layer.bert.encoder.layer[0].attention.self
    states_ = one_layer.bert.embeddings(batch["input_ids"])
    heads = [part(states_).view(2, -1, 2, 16).transpose(1, 2) for part in (layer.query, layer.key)]
    scores = heads[0] @ heads[1].transpose(-1, -2) / 4
    gaps = batch["attention_mask"][:, None, None, :] == 0
    expected = scores.masked_fill(gaps, -torch.inf).softmax(-1)
    torch.testing.assert_close(student.attentions[0], expected)
    (gradient,) = torch.autograd.grad(student.attentions[0].square().sum(), layer.query.weight)
    assert gradient.any()


def test_reading_attention_leaves_the_training_step_as_it_is(one_layer, batch):
    logits = []
    for asked in (frozenset(), frozenset({"attentions"})):
        torch.manual_seed(3)
        logits.append(model_outputs.forward_with_hidden(one_layer.train(), batch, asked).logits)
    assert torch.equal(*logits)


ARCHITECTURES = {
    "albert": {"attention_probs_dropout_prob": 0.5, "embedding_size": 8},
    "deberta-v2": {"attention_probs_dropout_prob": 0.5, "relative_attention": True},
    "distilbert": {
        "attention_dropout": 0.5,
        "dim": 32,
        "n_heads": 2,
        "n_layers": 2,
        "hidden_dim": 8,
    },
    "electra": {"attention_probs_dropout_prob": 0.5, "embedding_size": 8},
    "modernbert": {"attention_dropout": 0.5, "pad_token_id": 0},
    "mpnet": {"attention_probs_dropout_prob": 0.5},
    "roberta": {"attention_probs_dropout_prob": 0.5},
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_attention_in_training_is_what_it_is_before_dropout(kind, batch, config):
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    common = {n: getattr(config, n) for n in names} | {"vocab_size": config.vocab_size}
    common |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    made = AutoConfig.for_model(kind, **common | ARCHITECTURES[kind])
    model = AutoModelForSequenceClassification.from_config(made, attn_implementation="eager")
    found = model_outputs.forward_with_hidden(
        model.train(), batch, frozenset({"attentions"})
    ).attentions
    mask = batch["attention_mask"].bool()
    for attention in found:
        sums = attention.sum(-1).transpose(1, 2)[mask]
        torch.testing.assert_close(sums, torch.ones_like(sums))


class Bare(torch.nn.Module):
    """Returns attention that it has changed after dropout."""

    def forward(self, input_ids, output_attentions):
        probabilities = torch.full((1, 1, 4, 4), 0.25)
        dropped = torch.nn.functional.dropout(probabilities, 0.5, training=self.training) * 1
        return SequenceClassifierOutput(logits=torch.zeros(1, 2), attentions=(dropped,))


def test_attention_that_can_only_be_had_after_dropout_is_refused():
    inputs, asked = {"input_ids": torch.zeros(1, 4)}, frozenset({"attentions"})
    assert model_outputs.forward_with_hidden(Bare().eval(), inputs, asked).attentions[0].sum() == 4
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=r"distill\.dropout"):
        model_outputs.forward_with_hidden(Bare().train(), inputs, asked)
