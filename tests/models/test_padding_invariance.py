"""A padded batch gives each text the logits that it gets alone in plain transformers."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BigBirdConfig,
    BigBirdPegasusConfig,
    ConvBertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
    XLNetConfig,
)

from kdcli.data.column_access import sample_texts
from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.errors import ModelError
from kdcli.models import model_io
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.padding_invariance import (
    adopt_tokenizer_pad_token,
    choose_invariant_padding,
    create_collator,
)
from kdcli.models.sequence_length import get_max_length

WORDS = ["<pad>", *(f"w{i}" for i in range(1, 9))]
SHORT = ["w1", "w2 w3", "w4 w5 w6 w7", "w8 w1", "w3", "w7 w6 w5 w1", "w2 w8 w2 w4"]


def word_tokenizer(words, **settings):
    """A tokenizer of whole words, which adds nothing to a text."""
    vocabulary = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<pad>"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="<pad>", **settings)


def saved(config, tokenizer, folder, *, spread=30.0):
    """A model whose logits differ from text to text, in a folder."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(spread)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def one_by_one(folder, texts):
    """The reference: plain transformers, each text alone in a model loaded anew."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    kind = getattr(model.config, "attention_type", None)
    found = []
    for text in texts:
        if kind is not None:
            model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        inputs = tokenizer(text, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            found.append(model(**inputs).logits[0].numpy())
    return np.stack(found)


def as_kd_reads(folder, texts, batch_size=4):
    model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
    split = Dataset.from_dict({"text": texts})
    limit = get_max_length(model, tokenizer, None)
    choose_invariant_padding(model, tokenizer, "it", sample_texts(split), max_length=limit)
    encoded = tokenize_dataset(split, tokenizer, limit)
    return (
        predict_logits(model, create_collator(model, tokenizer), encoded, batch_size),
        model,
        tokenizer,
    )


def agree(found, expected):
    assert np.abs(expected - expected[0]).max() > 0.05, "the texts are told apart"
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def tiny_gpt2(pad):
    return GPT2Config(vocab_size=9, n_embd=16, n_layer=2, n_head=2, n_positions=32, num_labels=2,
                      pad_token_id=pad)  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [0, 1, -1, None, 8])
def test_decoder_reads_the_last_token_for_every_padding(pad, side, tmp_path):
    tokenizer = word_tokenizer(WORDS, padding_side=side)
    folder = saved(tiny_gpt2(pad), tokenizer, tmp_path / "gpt2", spread=5.0)
    found, model, own = as_kd_reads(folder, SHORT)
    agree(found, one_by_one(folder, SHORT))
    # Saved after this, it is right in plain transformers' batches where its own padding is.
    if pad not in {1, 8}:
        model_io.save_model(model, own, tmp_path / "again")
        own = AutoTokenizer.from_pretrained(tmp_path / "again")
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").eval()
        inputs = own(SHORT, padding=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            np.testing.assert_allclose(model(**inputs).logits.numpy(), found, atol=1e-4)


def test_end_of_text_token_as_padding(tmp_path):
    tokenizer = with_end(WORDS)
    tokenizer.pad_token = "</s>"
    config = LlamaConfig(vocab_size=11, hidden_size=16, num_hidden_layers=2, intermediate_size=32,
                         num_attention_heads=2, pad_token_id=None)  # fmt: skip
    folder = saved(config, tokenizer, tmp_path / "llama", spread=5.0)
    found, _, own = as_kd_reads(folder, SHORT)
    agree(found, one_by_one(folder, SHORT))
    assert own.pad_token != "</s>"


def test_left_padding_is_kept(tmp_path):
    config = XLNetConfig(vocab_size=9, d_model=16, n_layer=2, n_head=2, d_inner=32,
                         pad_token_id=0)  # fmt: skip
    tokenizer = word_tokenizer(WORDS, padding_side="right")
    folder = saved(config, tokenizer, tmp_path / "xlnet", spread=5.0)
    found, _, own = as_kd_reads(folder, SHORT)
    agree(found, one_by_one(folder, SHORT))
    assert own.padding_side == "left"


@pytest.mark.parametrize("lengths", [(300, 700), (3, 700)], ids=["long", "mixed"])
def test_block_sparse_attention_survives_short_texts(lengths, tmp_path):
    random = np.random.default_rng(0)
    config = BigBirdConfig(vocab_size=9, block_size=8, num_random_blocks=1, num_hidden_layers=3,
                           hidden_size=32, num_attention_heads=2, intermediate_size=32,
                           max_position_embeddings=1024)  # fmt: skip
    folder = saved(config, word_tokenizer(WORDS), tmp_path / "big-bird", spread=8.0)
    texts = [" ".join(random.choice(WORDS[1:], size)) for size in random.integers(*lengths, 12)]
    found, model, _ = as_kd_reads(folder, [*texts, "w1 w2", texts[0]])
    agree(found, one_by_one(folder, [*texts, "w1 w2", texts[0]]))
    assert model.config.attention_type == "block_sparse"


def with_end(words):
    """A tokenizer of whole words that ends each text with </s>, the last word's id plus 1."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_tokenizer([*words, "</s>", "<unk>"], eos_token="</s>", unk_token="<unk>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", len(words))]
    )
    return tokenizer


def test_block_sparse_attention_of_an_encoder_decoder(tmp_path):
    random = np.random.default_rng(0)
    each = {"layers": 2, "attention_heads": 2, "ffn_dim": 32}
    sizes = {f"{part}_{name}": each[name] for part in ("encoder", "decoder") for name in each}
    config = BigBirdPegasusConfig(vocab_size=11, d_model=32, block_size=8, num_random_blocks=1,
                                  max_position_embeddings=256, pad_token_id=0, eos_token_id=9,
                                  **sizes)  # fmt: skip
    folder = saved(config, with_end(WORDS), tmp_path / "pegasus", spread=5.0)
    texts = [" ".join(random.choice(WORDS[1:], size)) for size in random.integers(3, 150, 10)]
    found, *_ = as_kd_reads(folder, texts)
    agree(found, one_by_one(folder, texts))


def test_convolutional_model_gets_batches_of_one_length(tmp_path):
    config = ConvBertConfig(vocab_size=9, hidden_size=32, num_hidden_layers=2, intermediate_size=32,
                            num_attention_heads=2, embedding_size=32)  # fmt: skip
    folder = saved(config, word_tokenizer(WORDS), tmp_path / "convbert", spread=5.0)
    found, *_ = as_kd_reads(folder, SHORT)
    agree(found, one_by_one(folder, SHORT))


def test_model_that_ignores_the_mask_is_refused(tmp_path, monkeypatch):
    config = RobertaConfig(vocab_size=9, hidden_size=16, num_hidden_layers=2, intermediate_size=32,
                           num_attention_heads=2, max_position_embeddings=40)  # fmt: skip
    folder = saved(config, word_tokenizer(WORDS), tmp_path / "model", spread=5.0)
    model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
    forward = type(model).forward
    monkeypatch.setattr(
        type(model),
        "forward",
        lambda self, input_ids=None, **_: forward(self, input_ids=input_ids),
    )
    with pytest.raises(ModelError) as refused:
        choose_invariant_padding(model, tokenizer, "mine", [SHORT], max_length=20)
    assert refused.value.message.startswith("mine ")


def test_texts_beyond_the_position_table_are_refused_by_length(tmp_path):
    tokenizer = word_tokenizer(WORDS)
    folder = saved(tiny_gpt2(0), tokenizer, tmp_path / "gpt2")
    model = model_io.load_classifier(folder)
    with pytest.raises(ModelError) as refused:
        choose_invariant_padding(model, tokenizer, "mine", [["w1 " * 50, "w2"]], max_length=100)
    assert "1 to 50 tokens" in refused.value.message


def test_student_adopts_the_tokenizers_padding_token(tmp_path):
    tokenizer = word_tokenizer(WORDS)
    model = AutoModelForSequenceClassification.from_config(tiny_gpt2(1))
    adopt_tokenizer_pad_token(model, tokenizer)
    assert model.config.pad_token_id == 0
    t5 = T5Config(vocab_size=9, d_model=16, d_kv=8, num_layers=1, num_heads=2, d_ff=32,
                  pad_token_id=1, eos_token_id=2, decoder_start_token_id=1)  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(t5)
    adopt_tokenizer_pad_token(model, tokenizer)
    assert model.config.pad_token_id == 1


def test_a_tokenizer_without_tokens_is_refused(tmp_path):
    folder = saved(tiny_gpt2(0), word_tokenizer(WORDS), tmp_path / "gpt2")
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), pad_token="<pad>")
    with pytest.raises(ModelError):
        choose_invariant_padding(
            model_io.load_classifier(folder), empty, "mine", [SHORT], max_length=20
        )
