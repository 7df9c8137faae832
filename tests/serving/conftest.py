"""A served model whose texts get many labels, some of them refused."""

import json

import pytest
from serving.running import running

import kdcli


@pytest.fixture(scope="session")
def model(tiny_teacher, small_data, help_desk, make_once):
    """An exported int8 model with an out-of-scope threshold that refuses some texts."""
    import numpy as np
    import torch
    from models.architectures import spread
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    def fill(folder):
        student = kdcli.init_student(tiny_teacher, output=folder / "student", drop_every=2)
        network = AutoModelForSequenceClassification.from_pretrained(student).eval()
        tokenizer = AutoTokenizer.from_pretrained(student)
        with torch.no_grad():
            # As initialized, a text's first token hardly depends on the others.
            for weight in network.parameters():
                if weight.dim() == 2:
                    weight.mul_(10)
        texts = help_desk["test"]["text"][:40]
        encodings = [tokenizer(text, return_tensors="pt", truncation=True) for text in texts]
        spread(network, encodings, remembers=False)
        network.save_pretrained(student)
        with torch.inference_mode():
            logits = np.concatenate([network(**each).logits.numpy() for each in encodings])
        index = network.config.label2id["out_of_scope"]
        margin = np.delete(logits, index, 1).max(1) - logits[:, index]
        point = {
            "label": "out_of_scope",
            "score": "margin",
            "threshold": float(np.median(margin)),
            "refuse_at_most": 0.5,
        }
        settings = {
            "temperature": 1.5,
            "operating_point": point,
            "thresholds": None,
            "max_length": 64,
            "truncate": None,
        }
        (student / "kd.json").write_text(json.dumps(settings))
        kdcli.export(
            student,
            folder / "exported",
            precision="int8",
            max_drop=["accuracy=1"],
            data=small_data,
            label="intent",
        )

    return make_once("served", fill) / "exported"


@pytest.fixture(scope="session")
def texts(help_desk):
    """300 texts, some of them longer than the model reads."""
    texts = [*help_desk["test"]["text"], *help_desk["validation"]["text"]][:299]
    assert len(texts) == 299
    return [*texts, " ".join(texts[:10])]


@pytest.fixture(scope="session")
def expected(model, texts):
    """What `kdcli.load` gives for them."""
    predictions = kdcli.load(model).predict(texts, top_k=17)
    assert len({prediction.label for prediction in predictions}) > 8
    assert 20 < sum(prediction.refused for prediction in predictions) < 280
    return predictions


@pytest.fixture(scope="session")
def server(model):
    """The address of a server of the model."""
    with running(model, name="served") as address:
        yield address
