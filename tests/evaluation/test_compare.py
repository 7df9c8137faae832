"""Models side by side, their labels matched by name."""

import pytest
import torch

from kdcli.data.source import load
from kdcli.evaluation.compare import compare
from kdcli.models import source
from kdcli.progress import Silent
from kdcli.recipe.schema import DataSpec, EvaluateSpec


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


def test_the_order_of_labels_changes_no_figure(tiny_teacher, shuffled, small_data):
    corpus = load(DataSpec(dataset=str(small_data), label="intent"), 0)
    folders = {"teacher": tiny_teacher, "shuffled": shuffled}
    spec = EvaluateSpec(latency_texts=2)
    found = compare(folders, corpus, spec, None, Silent())
    one, two = found["models"]
    assert found["examples"] == {"validation": 34, "test": 34}
    for split in found["examples"]:
        assert two["splits"][split].pop("agreement") == 1.0
        assert two["splits"][split] == one["splits"][split]
    assert one["parameters"] == source.count_parameters(source.load_classifier(tiny_teacher))
    assert one["megabytes"] > 0
