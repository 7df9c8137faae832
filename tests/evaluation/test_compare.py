"""Models side by side, their labels matched by name."""

import numpy as np
import pytest
import torch
from transformers import pipeline

from kdcli.data.source import Corpus, load
from kdcli.errors import DataError, ModelError
from kdcli.evaluation.compare import compare
from kdcli.models import source
from kdcli.progress import Silent
from kdcli.recipe.schema import DataSpec, EvaluateSpec

SPEC = EvaluateSpec(latency_texts=2)


@pytest.fixture(scope="module")
def corpus(small_data):
    return load(DataSpec(dataset=str(small_data), label="intent"), 0)


@pytest.fixture
def shuffled(tiny_teacher, tmp_path):
    """The tiny teacher with its labels, and its head's rows, in another order."""
    model = source.load_classifier(tiny_teacher)
    names = source.labels_of(model.config)
    order = list(reversed(range(len(names))))
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order].clone())
        model.classifier.bias.copy_(model.classifier.bias[order].clone())
    model.config.id2label = {i: names[j] for i, j in enumerate(order)}
    model.config.label2id = {names[j]: i for i, j in enumerate(order)}
    source.save(model, source.load_tokenizer(tiny_teacher), tmp_path / "shuffled")
    return tmp_path / "shuffled"


def test_the_order_of_labels_changes_no_figure(tiny_teacher, shuffled, corpus):
    folders = {"teacher": tiny_teacher, "shuffled": shuffled}
    found = compare(folders, corpus, SPEC, None, Silent())
    one, two = found["models"]
    assert found["examples"] == {"validation": 34, "test": 34}
    for split in found["examples"]:
        assert two["splits"][split].pop("agreement") == 1.0
        assert two["splits"][split] == one["splits"][split]
    assert one["parameters"] == source.count_parameters(source.load_classifier(tiny_teacher))
    assert one["megabytes"] > 0


def test_figures_are_those_of_the_models_own_answers(tiny_teacher, corpus):
    found = compare({"teacher": tiny_teacher}, corpus, SPEC, None, Silent())["models"][0]
    answer = pipeline("text-classification", str(tiny_teacher))
    for split, figures in found["splits"].items():
        rows = corpus.splits[split]
        said = [one["label"] for one in answer(list(rows["text"]))]
        truth = [corpus.labels[i] for i in rows["label"]]
        assert figures["accuracy"] == np.mean([a == b for a, b in zip(said, truth, strict=True)])
        assert "agreement" not in figures, "with itself"
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p95"]


def test_a_label_that_the_model_lacks_is_refused(tiny_teacher, corpus, tmp_path):
    model = source.load_classifier(tiny_teacher)
    model.config.id2label[3] = "something_else"
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}
    source.save(model, source.load_tokenizer(tiny_teacher), tmp_path / "other")
    with pytest.raises(ModelError, match="doesn't know the label"):
        compare({"other": tmp_path / "other"}, corpus, SPEC, None, Silent())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"out_of_scope": "nothing"}, "no label nothing"), ({"splits": ("test",)}, "no split test")],
)
def test_what_can_t_be_measured_is_said(tiny_teacher, corpus, wrong, says):
    part = Corpus({"train": corpus.splits["train"]}, corpus.labels)
    spec = SPEC.model_copy(update={"splits": ("train",), **wrong})
    with pytest.raises(DataError, match=says):
        compare({"teacher": tiny_teacher}, part, spec, None, Silent())
