"""Logits of batches equal those of single texts."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, DistilBertConfig, GPT2Config

from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.models import model_io
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.padding_invariance import create_collator


def test_batched_logits_equal_those_of_single_texts(tiny_teacher, help_desk):
    model, tokenizer = model_io.load_classifier(tiny_teacher), model_io.load_tokenizer(tiny_teacher)
    texts = help_desk["test"]["text"][:40]
    encoded = tokenize_dataset(Dataset.from_dict({"text": texts}), tokenizer, 64)
    found = predict_logits(model, create_collator(model, tokenizer), encoded, 16)
    with torch.no_grad():
        alone = [model(**tokenizer(t, return_tensors="pt")).logits[0].numpy() for t in texts]
    np.testing.assert_allclose(found, np.stack(alone), atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("config", "reads"),
    [
        (DistilBertConfig(n_layers=2, dim=32, n_heads=2, hidden_dim=64), {"input_ids"}),
        # It answers at the last token that isn't padding.
        (GPT2Config(n_layer=2, n_embd=32, n_head=2), {"input_ids", "token_type_ids"}),
    ],
    ids=["distilbert", "gpt2"],
)
def test_batched_logits_equal_single_ones_for_other_inputs(config, reads, tokenizer, help_desk):
    config = copy.deepcopy(config)
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    texts = help_desk["test"]["text"][:20]
    encoded = tokenize_dataset(Dataset.from_dict({"text": texts}), tokenizer, 64)
    found = predict_logits(model, create_collator(model, tokenizer), encoded, 8)
    alone = [{n: t for n, t in tokenizer(text, return_tensors="pt").items() if n in reads}
             for text in texts]  # fmt: skip
    with torch.no_grad():
        expected = [model(**inputs).logits[0].numpy() for inputs in alone]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_progress_counts_rows(tiny_teacher, help_desk):
    model, tokenizer = model_io.load_classifier(tiny_teacher), model_io.load_tokenizer(tiny_teacher)
    encoded = tokenize_dataset(
        Dataset.from_dict({"text": help_desk["test"]["text"][:10]}), tokenizer, 64
    )
    told = []
    predict_logits(
        model, create_collator(model, tokenizer), encoded, 4, lambda *at: told.append(at)
    )
    assert told == [(4, 10), (8, 10), (10, 10)]
