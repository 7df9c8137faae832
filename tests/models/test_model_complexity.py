"""Counts of parameters and operations."""

import torch
from transformers import AlbertConfig, BertConfig

from kdcli.models import tensor_slicing
from kdcli.models.model_complexity import count_parameters_and_flops

NARROW = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 60}


def test_flops_count_layers_but_not_embeddings():
    model = tensor_slicing.build_meta_model(BertConfig(num_hidden_layers=3, **NARROW))
    layer = 4 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 16 + 4 * 16
    assert count_parameters_and_flops(model).flops_per_token == 2 * (3 * layer + 2 * 16)
    assert count_parameters_and_flops(model).parameters == sum(
        p.numel() for p in model.parameters()
    )


def test_flops_count_a_shared_layer_per_pass():
    once, twice = (
        count_parameters_and_flops(
            tensor_slicing.build_meta_model(
                AlbertConfig(num_hidden_layers=n, embedding_size=8, **NARROW)
            )
        )
        for n in (1, 2)
    )
    assert twice.parameters == once.parameters
    assert 1.8 < twice.flops_per_token / once.flops_per_token < 2


def test_counts_work_on_the_meta_device():
    model = tensor_slicing.build_meta_model(BertConfig(num_hidden_layers=1, **NARROW))
    assert {p.device for p in model.parameters()} == {torch.device("meta")}
