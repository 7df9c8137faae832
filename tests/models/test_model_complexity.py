"""Sizes are counted right."""

import torch
from transformers import AlbertConfig, BertConfig

from kdcli.models import tensor_slicing
from kdcli.models.model_complexity import count_parameters_and_flops

NARROW = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 60}


def test_a_token_is_multiplied_with_every_layer_and_with_no_embedding():
    model = tensor_slicing.build_meta_model(BertConfig(num_hidden_layers=3, **NARROW))
    layer = 4 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 16 + 4 * 16
    assert count_parameters_and_flops(model).flops_per_token == 2 * (3 * layer + 2 * 16)
    assert count_parameters_and_flops(model).parameters == sum(
        p.numel() for p in model.parameters()
    )


def test_a_layer_gone_through_twice_is_twice_the_work():
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


def test_no_weights_are_needed():
    model = tensor_slicing.build_meta_model(BertConfig(num_hidden_layers=1, **NARROW))
    assert {p.device for p in model.parameters()} == {torch.device("meta")}
