"""A classifier in PyTorch labels texts as plain transformers does, one text at a time."""

import numpy as np
import pytest
import torch
from models import architectures
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdcli.errors import DataError, ModelError
from kdcli.models.torch_classifier import TorchClassifier

LONG = " ".join(["my printer is broken and the order never arrived"] * 12)


def logits_of_transformers(folder, texts, max_length):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"truncation": True, "max_length": max_length, "return_tensors": "pt"}
    with torch.no_grad():
        return np.array(
            [
                model(**tokenizer(*([t] if isinstance(t, str) else t), **options)).logits[0].numpy()
                for t in texts
            ]
        )


def test_logits_do_not_depend_on_the_batch(exported, help_desk):
    texts = [*help_desk["test"]["text"][:40], "", "ok", LONG]
    classifier = TorchClassifier(exported, device="cpu")
    expected = logits_of_transformers(exported, texts, 64)
    np.testing.assert_allclose(classifier.predict_logits(texts), expected, atol=2e-5)
    backwards = classifier.predict_logits(texts[::-1], batch_size=5)[::-1]
    np.testing.assert_allclose(backwards, expected, atol=2e-5)
    pairs = [("my order is late", "where is it"), ("hello", LONG)]
    expected = logits_of_transformers(exported, pairs, 64)
    np.testing.assert_allclose(classifier.predict_logits(pairs), expected, atol=2e-5)


def test_windows_of_a_text_are_averaged(exported):
    classifier = TorchClassifier(exported, device="cpu", max_length=24, truncation="windows")
    tokenizer = AutoTokenizer.from_pretrained(exported)
    words = tokenizer(LONG, add_special_tokens=False)["input_ids"]
    parts = [tokenizer.decode(words[i : i + 22]) for i in range(0, len(words) - 6, 16)]
    expected = logits_of_transformers(exported, parts, 24).mean(axis=0)
    logits = classifier.predict_logits(["short", LONG])
    np.testing.assert_allclose(logits[1], expected, atol=2e-5)


def test_a_decoder_reads_its_last_token(tmp_path):
    architectures.save("gpt2", tmp_path)
    texts = architectures.some_texts(6, seed=3, longest=12)
    expected = logits_of_transformers(tmp_path, texts, architectures.LIMIT)
    logits = TorchClassifier(tmp_path, device="cpu").predict_logits(texts)
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_texts_that_are_no_texts_are_refused(exported):
    classifier = TorchClassifier(exported, device="cpu")
    for texts in ("a text", ["a", 5], ["a", ("a", "b")], [("a", "b"), "a"], [None]):
        with pytest.raises(DataError):
            classifier.predict(texts)
    assert classifier.predict([]) == []


def test_a_model_with_damaged_weights_gives_no_labels(exported):
    classifier = TorchClassifier(exported, device="cpu")
    with pytest.raises(ModelError, match="NaN"):
        classifier.interpret(np.array([[1.0, np.nan]]))
