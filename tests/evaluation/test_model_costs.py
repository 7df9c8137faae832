"""Work and memory, against what they are by arithmetic."""

import pytest
import torch
from transformers import BertForSequenceClassification

from kdcli.evaluation.efficiency.model_costs import flops_per_token, peak_memory_megabytes


class Wrapped(torch.nn.Module):
    """Layers that take their input by name, as a transformer does."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, input_ids):
        return self.layers(input_ids)


@pytest.mark.parametrize("length", [1, 7, 30])
def test_operations_are_those_of_the_matrix_products(config, length):
    model = BertForSequenceClassification(config).eval()
    ids = torch.randint(5, 100, (1, length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    width, wide = config.hidden_size, config.intermediate_size
    weights = 4 * width**2 + 2 * width * wide
    layer = 2 * (weights + 2 * length * width)  # scores and their sum over values
    head = 2 * (width**2 + width * config.num_labels) / length
    expected = config.num_hidden_layers * layer + head
    assert flops_per_token(model, batch) == pytest.approx(expected)


def test_memory_is_weights_and_what_lives_at_the_same_time():
    model = Wrapped(torch.nn.Linear(32, 128), torch.nn.GELU(), torch.nn.Linear(128, 32))
    weights = sum(p.numel() for p in model.parameters())
    rows = 64
    # At the activation function its input and its output are both there.
    live = 2 * rows * 128
    found = peak_memory_megabytes(model, {"input_ids": torch.rand(rows, 32)})
    assert found == pytest.approx(4 * (weights + live) / 1e6)


def test_what_is_freed_is_free_again():
    layers = [torch.nn.Linear(32, 32) for _ in range(10)]
    deep, shallow = Wrapped(*layers), Wrapped(*layers[:2])
    batch = {"input_ids": torch.rand(64, 32)}
    weights = 8 * sum(p.numel() for p in layers[0].parameters()) * 4 / 1e6
    assert peak_memory_megabytes(deep, batch) - peak_memory_megabytes(
        shallow, batch
    ) == pytest.approx(weights)


def test_a_weight_that_is_shared_or_seen_from_elsewhere_counts_once():
    layer = torch.nn.Linear(256, 256, bias=False)

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = layer, layer

        def forward(self, input_ids):
            return input_ids @ self.one.weight.t() @ self.two.weight.view(256, 256).t()

    found = peak_memory_megabytes(Twice(), {"input_ids": torch.rand(1, 256)})
    assert found == pytest.approx(4 * (256 * 256 + 2 * 256) / 1e6)


class Scores(torch.nn.Module):
    """Multiplies what it is given, as DeBERTa's attention does its relative embeddings."""

    def forward(self, states, table):
        return states @ table.T


class Relative(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.scores = torch.nn.Parameter(torch.randn(3, 8)), Scores()

    def forward(self, input_ids):
        return self.scores(input_ids, self.table)


def test_a_parameter_that_a_module_is_given_is_counted():
    model = Relative()
    assert flops_per_token(model, {"input_ids": torch.randn(5, 8)}) == 2 * 5 * 8 * 3 / 40
    assert model.table.requires_grad
