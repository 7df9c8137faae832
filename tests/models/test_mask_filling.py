"""A masked language model fills masked words."""

import pytest
import torch
from transformers import BertForMaskedLM

from kdcli.errors import ModelError
from kdcli.models import mask_filling

TEXTS = [["where", None, "my", "parcel"], [None, None], ["hello"], ["the", None] * 40]


@pytest.fixture(scope="module")
def language_model(tokenizer, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def filled(folder, seed=0):
    model, tokenizer = mask_filling.load_masked_lm(folder)
    done = []
    texts = mask_filling.fill_masked_words(
        model, tokenizer, TEXTS * 20, seed, lambda *so_far: done.append(so_far)
    )
    assert done == [(64, 80), (80, 80)]
    return texts


def test_only_masked_words_are_filled(language_model, tokenizer):
    where, both, hello, long = filled(language_model)[:4]
    first, new, *rest = where.split()
    assert [first, *rest] == ["where", "my", "parcel"]
    for word in [new, *both.split()]:
        assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1
    assert len(both.split()) == 2
    assert hello == "hello"
    # The model takes 64 tokens: the words of the rest stay, those to be written stay away.
    assert long.split().count("the") >= 40
    assert 40 + 30 <= len(long.split()) < 80


def test_filling_depends_on_the_seed_only(language_model):
    assert filled(language_model) == filled(language_model)
    assert filled(language_model) != filled(language_model, seed=1)


def test_model_without_masked_lm_head_is_refused(tiny_backbone, tiny_teacher):
    for folder in (tiny_backbone, tiny_teacher):
        with pytest.raises(ModelError, match="holds no masked language model"):
            mask_filling.load_masked_lm(folder)
