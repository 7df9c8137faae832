"""Layer selection by importance drops the layers that do nothing."""

from itertools import product

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    T5Config,
)

from kdcli.models import layer_importance, layer_stacks

WORDS = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
NARROW = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32,
          "num_hidden_layers": 5, **WORDS}  # fmt: skip
CONFIGS = {
    "gpt2": GPT2Config(n_embd=16, n_layer=5, n_head=2, **WORDS),
    "llama": LlamaConfig(**NARROW),
    "modernbert": ModernBertConfig(cls_token_id=1, sep_token_id=2, **NARROW),
    "t5": T5Config(d_model=16, num_layers=5, num_heads=2, d_kv=8, d_ff=32,
                   decoder_start_token_id=0, **WORDS),
}  # fmt: skip
# What each part of a layer ends in.
LAST = ("c_proj", "o_proj", "down_proj", "Wo", "SelfAttention.o", "EncDecAttention.o", "wo")
BATCHES = [
    {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for ids in (torch.tensor([[5, 6, 7, 8, 2], [5, 9, 11, 3, 2]]), torch.tensor([[12, 30, 2]]))
]


def made(kind, idle=()):
    """A random classifier, some of whose layers pass on what they are given."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[kind]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
        for stack in layer_stacks.find_layer_stacks(model):
            for layer in idle:
                for name, module in model.get_submodule(f"{stack.path}.{layer}").named_modules():
                    if name.endswith(LAST):
                        module.weight.zero_()
    return model


@pytest.mark.parametrize("head", [True, False], ids=["by its answers", "by its hidden states"])
@pytest.mark.parametrize(
    ("kind", "idle"),
    [*product(CONFIGS, [(1, 3), (2, 4)]), *product(["gpt2", "llama", "t5"], [(0, 1)])],
)
def test_layers_that_do_nothing_are_dropped(kind, idle, head):
    model = made(kind, idle)
    for stack in layer_stacks.find_layer_stacks(model):
        kept = layer_importance.select_layers_greedily(model, stack, 3, BATCHES, use_logits=head)
        assert kept == tuple(layer for layer in range(5) if layer not in idle)


def test_first_layer_with_fewer_parameters_is_kept():
    model = made("modernbert", idle=(0, 1))
    (stack,) = layer_stacks.find_layer_stacks(model)
    assert layer_importance.select_layers_greedily(model, stack, 1, BATCHES, use_logits=True) == (
        0,
    )
    assert 1 not in layer_importance.select_layers_greedily(
        model, stack, 4, BATCHES, use_logits=True
    )


def test_untrained_head_is_ignored():
    model = made("gpt2", idle=(1, 4))
    (stack,) = layer_stacks.find_layer_stacks(model)
    with torch.no_grad():
        model.score.weight.zero_()
    assert layer_importance.select_layers_greedily(model, stack, 3, BATCHES, use_logits=False) == (
        0,
        2,
        3,
    )
    assert layer_importance.select_layers_greedily(model, stack, 3, BATCHES, use_logits=True) != (
        0,
        2,
        3,
    )


def test_progress_reaches_the_total():
    model, told = made("gpt2"), []
    (stack,) = layer_stacks.find_layer_stacks(model)
    layer_importance.select_layers_greedily(model, stack, 3, BATCHES, use_logits=True,
                          advance=lambda done, total: told.append((done, total)))  # fmt: skip
    assert told == [(i, 9) for i in range(1, 10)]
