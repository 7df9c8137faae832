"""A trimmed vocabulary keeps the tokens of its texts, and can spell any other."""

import json

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    CanineConfig,
    CanineTokenizer,
    DistilBertConfig,
    GPT2Config,
    GPT2Tokenizer,
    LlamaConfig,
    LlamaTokenizer,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    RobertaTokenizer,
    T5Config,
    T5Tokenizer,
    XLMRobertaConfig,
    XLMRobertaTokenizer,
)

from kdcli.errors import ModelError
from kdcli.models import vocab_trimming

NARROW = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 24}  # fmt: skip
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
FIRST = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
STRANGE = [
    "naïve café, ½ price ☕️ 😀 👩‍👩‍👧",
    "Привет, как дела?",
    "こんにちは世界 你好",
    "العربية हिन्दी ไทย",
    "ﬁ ÅÄÖ ß İ",
    "tabs\tand\n\nlines  and   spaces \u200b",
    "don't [PAD] <s> </s> ##x Ġx ▁x <0x41>",
    "antidisestablishmentarianism of zyzzyvas, xylophones & quokkas!",
    "0123456789 ~`^|\\{}",
    "",
]


def trained(model, texts, trainer, **parts):
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())["model"]


def merges(texts, size, *, special=(), **parts):
    """The vocabulary and merges of a BPE model."""
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), **parts)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = trained(models.BPE(), texts, trainer, pre_tokenizer=byte_level)
    return found["vocab"], [tuple(pair) for pair in found["merges"]]


def byte_level(texts, special=()):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return merges(texts, 700, special=special, initial_alphabet=alphabet)


def unigram(texts, special):
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=list(special), unk_token="<unk>"
    )
    parts = {"pre_tokenizer": pre_tokenizers.Metaspace()}
    return [tuple(piece) for piece in trained(models.Unigram(), texts, trainer, **parts)["vocab"]]


def roberta(texts):
    return RobertaTokenizer(*byte_level(texts, FIRST))


def modernbert(texts):
    """Byte-level, with its special tokens behind the others."""
    vocab, pairs = byte_level(texts)
    backend = Tokenizer(models.BPE(vocab, pairs))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(),
        processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
        ),
    ])  # fmt: skip
    return tokenizer


def llama(texts):
    """As SentencePiece merges: characters, and bytes for those that it doesn't know."""
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "<s>", "</s>", *BYTES])
    found = trained(models.BPE(), texts, trainer, pre_tokenizer=pre_tokenizers.Metaspace())
    pairs = [tuple(pair) for pair in found["merges"]]
    return LlamaTokenizer(found["vocab"], pairs, pad_token="</s>")


def words_first(texts):
    """Whole words are looked up before anything is merged, even one that no merges lead to."""
    vocab, pairs = byte_level(texts)
    vocab |= {"zyzzyvas": len(vocab)}
    backend = Tokenizer(models.BPE(vocab, pairs, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")


def word_ends(texts):
    """The last letter of a word is another than the same letter within."""
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<pad>"], end_of_word_suffix="</w>"
    )
    model = models.BPE(unk_token="<unk>", end_of_word_suffix="</w>")
    split = pre_tokenizers.Whitespace()
    found = trained(model, texts, trainer, pre_tokenizer=split)
    pairs = [tuple(pair) for pair in found["merges"]]
    backend = Tokenizer(
        models.BPE(found["vocab"], pairs, unk_token="<unk>", end_of_word_suffix="</w>")
    )
    backend.pre_tokenizer, backend.decoder = split, decoders.BPEDecoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="<pad>"
    )


def t5(texts):
    return T5Tokenizer(unigram(texts, ["<pad>", "</s>", "<unk>"]), extra_ids=2)


def xlm_roberta(texts):
    return XLMRobertaTokenizer(unigram(texts, FIRST))


MAKERS = {
    "roberta": (roberta, RobertaConfig(**NARROW)),
    "gpt2": (lambda texts: GPT2Tokenizer(*byte_level(texts, FIRST), **NAMED),
             GPT2Config(n_embd=32, n_layer=1, n_head=2)),
    "modernbert": (modernbert, ModernBertConfig(**NARROW)),
    "llama": (llama, LlamaConfig(num_key_value_heads=1, **NARROW)),
    "qwen3": (words_first, Qwen3Config(num_key_value_heads=1, **NARROW)),
    "distilbert": (word_ends, DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=24)),
    "t5": (t5, T5Config(d_model=32, num_layers=1, num_heads=2, d_kv=16, d_ff=24,
                        decoder_start_token_id=0)),
    "xlm-roberta": (xlm_roberta, XLMRobertaConfig(**NARROW)),
    "bert": (None, BertConfig(**NARROW)),
    "mpnet": (None, MPNetConfig(**NARROW)),
}  # fmt: skip


@pytest.fixture(scope="session")
def texts(help_desk):
    return help_desk["train"]["text"][::20]


@pytest.fixture(scope="session")
def others(help_desk):
    return [*help_desk["test"]["text"], *STRANGE]


@pytest.fixture(params=MAKERS, scope="module")
def whole(request, help_desk, tokenizer):
    """A model and its tokenizer."""
    make, config = MAKERS[request.param]
    own = make(help_desk["train"]["text"]) if make else tokenizer
    for name in ("bos", "eos", "cls", "sep", "pad"):
        setattr(config, f"{name}_token_id", getattr(own, f"{name}_token_id"))
    # Many a model has more rows than its tokenizer has tokens.
    config.vocab_size = len(own) + 3
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval(), own


@pytest.fixture(scope="module")
def cut(whole, texts, tmp_path_factory):
    """The same with a smaller vocabulary, as plain transformers loads them."""
    model, tokenizer = whole
    kept = vocab_trimming.select_token_ids(tokenizer, model.config, texts)
    folder = tmp_path_factory.mktemp("cut")
    for part in vocab_trimming.trim_vocabulary(model, tokenizer, texts, kept):
        part.save_pretrained(folder)
    loaded, report = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return loaded.eval(), AutoTokenizer.from_pretrained(folder), kept


def logits(model, tokenizer, texts):
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(
            input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]
        ).logits


def test_texts_keep_tokens_and_logits(whole, cut, texts):
    model, tokenizer = whole
    smaller, own, _ = cut
    for text in texts:
        assert own.tokenize(text) == tokenizer.tokenize(text)
    torch.testing.assert_close(
        logits(smaller, own, texts), logits(model, tokenizer, texts), atol=1e-5, rtol=0
    )


def test_other_texts_stay_spellable(whole, cut, others):
    _, tokenizer = whole
    _, own, _ = cut
    for text in others:
        before, after = tokenizer.tokenize(text), own.tokenize(text)
        assert after.count(own.unk_token) == before.count(tokenizer.unk_token), text
        decoded = (t.decode(t(text)["input_ids"]) for t in (tokenizer, own))
        assert len(set(decoded)) == 1, text


def test_every_kept_token_can_still_be_produced(whole, cut):
    def alone(tokenizer, piece):
        model = tokenizer.backend_tokenizer.model
        return [token.value for token in model.tokenize(piece.removesuffix("</w>"))]

    _, tokenizer = whole
    _, own, _ = cut
    reached = [piece for piece in own.get_vocab() if alone(tokenizer, piece) == [piece]]
    assert len(reached) > 50
    assert [piece for piece in reached if alone(own, piece) != [piece]] == []


def test_ids_are_renumbered_everywhere(whole, cut):
    model, tokenizer = whole
    smaller, own, kept = cut
    assert len(kept) < 0.85 * len(tokenizer)
    assert own.convert_ids_to_tokens(list(range(len(kept)))) == (
        tokenizer.convert_ids_to_tokens(kept)
    )
    assert len(own) == smaller.config.vocab_size == len(kept)
    assert torch.equal(
        smaller.get_input_embeddings().weight, model.get_input_embeddings().weight[kept]
    )
    assert own.special_tokens_map == tokenizer.special_tokens_map
    for name in ("bos", "eos", "cls", "sep", "pad", "decoder_start"):
        was, now = (getattr(m.config, f"{name}_token_id", None) for m in (model, smaller))
        assert (None if was is None else kept.index(was)) == now, name


def test_text_pairs_keep_their_tokens(whole, cut, texts):
    _, tokenizer = whole
    _, own, kept = cut
    pair = tokenizer(texts[0], texts[1], truncation=True, max_length=30)
    smaller = own(texts[0], texts[1], truncation=True, max_length=30)
    assert [kept[i] for i in smaller.pop("input_ids")] == pair.pop("input_ids")
    assert dict(smaller) == dict(pair)


def test_trimmed_model_trains(cut, texts):
    student, own, _ = cut
    batch = own(texts[:2], padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        found = student(**inputs).logits
        loss = torch.nn.functional.cross_entropy(found, torch.tensor([0, 1]))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_vocab_size_fills_up_in_vocabulary_order(whole, texts):
    model, tokenizer = whole
    needed = vocab_trimming.select_token_ids(tokenizer, model.config, texts)
    size = (len(needed) + len(tokenizer)) // 2
    kept = vocab_trimming.select_token_ids(tokenizer, model.config, texts, size)
    assert len(kept) == size
    assert set(needed) < set(kept)
    assert vocab_trimming.select_token_ids(tokenizer, model.config, texts, 10) == needed
    more = set(kept) - set(needed)
    gone = set(range(len(tokenizer))) - set(kept)
    assert sum(sorted(more)) / len(more) < sum(gone) / len(gone)
    vocab_trimming.trim_vocabulary(model, tokenizer, texts, kept)


def test_keeping_every_token_changes_nothing(whole, texts):
    model, tokenizer = whole
    same, own = vocab_trimming.trim_vocabulary(model, tokenizer, texts, range(len(tokenizer)))
    assert own.get_vocab() == tokenizer.get_vocab()
    assert torch.equal(logits(same, own, texts), logits(model, tokenizer, texts))


def test_unused_tokens_are_not_kept(texts):
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"[unused{i}]" for i in range(5)), "the", "of"]
    backend = Tokenizer(models.WordPiece({p: i for i, p in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    kept = vocab_trimming.select_token_ids(tokenizer, BertConfig(), ["nothing known"], 9)
    left = tokenizer.convert_ids_to_tokens(kept)
    assert {"the", "of"} <= set(left)


def test_vocab_size_above_the_tokenizers_is_refused(whole, texts):
    model, tokenizer = whole
    with pytest.raises(ModelError, match="trim_vocab is 40,000, and the tokenizer has"):
        vocab_trimming.select_token_ids(tokenizer, model.config, texts, 40_000)


def test_a_token_without_an_embedding_is_refused(tokenizer, texts):
    config = BertConfig(vocab_size=len(tokenizer) - 2, **NARROW)
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ModelError, match="tokens that the model has no embedding for"):
        vocab_trimming.trim_vocabulary(model, tokenizer, texts, range(len(tokenizer)))


def test_slow_tokenizer_is_refused(texts):
    with pytest.raises(ModelError, match=r"CanineTokenizer\) is written in Python"):
        vocab_trimming.select_token_ids(CanineTokenizer(), CanineConfig(), texts)


def test_word_level_vocabulary_is_refused(texts):
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    with pytest.raises(ModelError, match="a WordLevel vocabulary"):
        vocab_trimming.select_token_ids(tokenizer, BertConfig(), texts)
