"""Tokens and batches."""

import numpy as np
import pytest
from datasets import Dataset

from kdcli.data.tokenization.batch_sampler import (
    DistributedBatchSampler,
    class_balanced_probabilities,
    length_grouped_order,
)
from kdcli.data.tokenization.collator import PaddingCollator
from kdcli.data.tokenization.tokenize import (
    count_truncated_texts,
    token_lengths,
    tokenize_dataset,
)
from kdcli.data.tokenization.windows import average_windows, concat_per_text_columns
from kdcli.errors import ModelError


@pytest.fixture
def like_clinc():
    """Lengths spread as those of CLINC's queries: about 11 tokens, 33 at the most."""
    random = np.random.default_rng(0)
    return np.clip(random.normal(11, 3.5, size=15_250).round().astype(int), 4, 33)


def test_batches_of_like_length_hold_little_padding(like_clinc):
    order = length_grouped_order(like_clinc, 48, seed=42, epoch=0).tolist()
    assert padding_fraction(like_clinc, order, 48) < 0.05
    unsorted = padding_fraction(like_clinc, list(range(len(like_clinc))), 48)
    assert unsorted > 0.3


def test_the_order_depends_on_seed_and_epoch(like_clinc):
    orders = [(7, 3), (7, 3), (7, 4), (8, 3)]
    one, again, later, other = (
        length_grouped_order(like_clinc, 48, *order).tolist() for order in orders
    )
    assert one == again
    assert one != later
    assert one != other


def test_balanced_each_class_is_drawn_as_often():
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    lengths = np.full(1000, 8)
    shares = class_balanced_probabilities(labels)
    assert shares.sum() == pytest.approx(1)
    drawn = [labels[length_grouped_order(lengths, 16, 0, epoch, shares)] for epoch in range(5)]
    assert all(len(labels) == 1000 for labels in drawn)
    counts = np.bincount(np.concatenate(drawn))
    assert counts == pytest.approx([5000 / 3] * 3, rel=0.1)


@pytest.mark.parametrize("rows", [1, 47, 48, 49, 48 * 50 + 1, 48 * 100 + 47])
def test_no_number_of_rows_loses_one(rows):
    lengths = np.arange(rows) % 30 + 3
    assert sorted(length_grouped_order(lengths, 48, seed=0, epoch=0)) == list(range(rows))


@pytest.mark.parametrize("rows", [1, 3, 96, 97, 99])
def test_processes_share_every_batch_evenly(rows, monkeypatch):
    shares = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append(list(DistributedBatchSampler(rows, 48, lambda: np.arange(rows))))
    assert len(shares[0]) == len(shares[1]) == -(-rows // 48)
    for i, (one, two) in enumerate(zip(*shares, strict=True)):
        batch = list(range(rows))[48 * i : 48 * (i + 1)]
        # None may stand idle: the two of them both take the only row.
        assert sorted({*one, *two}) == batch
        assert one == two == batch if len(batch) == 1 else abs(len(one) - len(two)) <= 1


def test_batches_don_t_come_in_order_of_length(like_clinc):
    order = length_grouped_order(like_clinc, 48, seed=42, epoch=0)
    longest = [like_clinc[order[i : i + 48]].max() for i in range(0, 50 * 48, 48)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_truncation_counts_only_texts_that_lose_something(tokenizer):
    split = Dataset.from_dict({"text": ["parcel " * 3, "parcel " * 4, "parcel " * 5]})
    per_word = len(tokenizer("parcel")["input_ids"]) - 2
    limit = 4 * per_word + 2
    encoded = tokenize_dataset(split, tokenizer, limit)
    assert token_lengths(encoded).tolist() == [3 * per_word + 2, limit, limit]
    assert count_truncated_texts(split, encoded, tokenizer, limit) == 1


def test_pairs_are_encoded_with_their_token_types(tokenizer):
    split = Dataset.from_dict({"text": ["where is it"], "text_pair": ["my parcel"]})
    row = tokenize_dataset(split, tokenizer, 64)[0]
    assert row["token_type_ids"] == tokenizer("where is it", "my parcel")["token_type_ids"]


def test_a_batch_holds_what_the_model_takes_and_nothing_else(tokenizer):
    rows = [
        dict(tokenize_dataset(Dataset.from_dict({"text": [t]}), tokenizer, 64)[0])
        for t in ("a", "a b")
    ]
    for row, label in zip(rows, (3, 5), strict=True):
        row["labels"] = label
    batch = PaddingCollator(tokenizer, ("input_ids", "attention_mask"))(rows)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["labels"].tolist() == [3, 5]
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"][0].sum() < batch["attention_mask"][1].sum()


LONG = "where is my parcel and my refund for the invoice of the order that you have"


@pytest.fixture
def words(tokenizer):
    """A long text's tokens without those that begin and end it, and a way to read it."""
    ids = tokenizer(LONG, add_special_tokens=False)["input_ids"]

    def read(keep, texts=(LONG, "my parcel"), limit=8):
        split = Dataset.from_dict({"text": list(texts), "label": list(range(len(texts)))})
        return split, tokenize_dataset(split, tokenizer, limit, keep)

    return ids, read


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (None, lambda ids: ids[:6]),
        ("head", lambda ids: ids[:6]),
        ("tail", lambda ids: ids[-6:]),
        ("both", lambda ids: ids[:3] + ids[-3:]),
    ],
)
def test_of_a_longer_text_what_is_asked_for_is_kept(words, tokenizer, keep, kept):
    ids, read = words
    split, found = read(keep)
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert found[0]["input_ids"] == [begin, *kept(ids), end]
    assert found[1]["input_ids"] == tokenizer("my parcel")["input_ids"]
    assert found["label"][:] == [0, 1]
    assert count_truncated_texts(split, found, tokenizer, 8) == 1
    assert tokenizer.truncation_side == "right"


def test_windows_cover_the_whole_text_and_overlap(words, tokenizer):
    ids, read = words
    _, found = read("windows", ("my parcel", LONG, "my refund"))
    of = np.asarray(found["text_of"])
    assert of.tolist() == sorted(of)
    assert set(of) == {0, 1, 2}
    assert np.asarray(found["label"]).tolist() == of.tolist()
    inside = [row[1:-1] for row, text in zip(found["input_ids"], of, strict=True) if text == 1]
    assert inside[0] == ids[:6]
    assert inside[-1][-1] == ids[-1]
    whole = inside[0]
    for window in inside[1:]:
        assert window[:2] == whole[-2:]
        whole += window[2:]
    assert whole == ids


def test_a_text_s_figure_is_the_mean_of_its_windows(words):
    _, read = words
    _, found = read("windows", ("my parcel", LONG, "my refund"))
    count = len(found) - 2
    figures = np.arange(2.0 * len(found), dtype=np.float32).reshape(-1, 2)
    means = average_windows(figures, found)
    np.testing.assert_allclose(means, [figures[0], figures[1 : 1 + count].mean(0), figures[-1]])
    assert means.dtype == np.float32
    _, short = read("head")
    assert average_windows(figures[:2], short) is not None
    np.testing.assert_array_equal(average_windows(figures[:2], short), figures[:2])


def test_a_teacher_s_outputs_go_to_each_window_of_their_text(words):
    _, read = words
    _, found = read("windows", ("my parcel", LONG))
    outputs = Dataset.from_dict({"teacher_logits": [[0.0], [1.0]]})
    got = concat_per_text_columns(found, outputs)
    assert [row[0] for row in got["teacher_logits"]] == [float(t) for t in got["text_of"]]


@pytest.fixture(scope="module")
def bertweet(tmp_path_factory):
    """A tokenizer that is written in Python, and has no fast twin."""
    from transformers import BertweetTokenizer

    folder = tmp_path_factory.mktemp("bertweet")
    letters = "abcdefghijklmnopqrstuvwxyz"
    (folder / "vocab.txt").write_text("".join(f"{c}@@ 1\n{c} 1\n" for c in letters))
    (folder / "bpe.codes").write_text("#version: 0.2\n")
    return BertweetTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes"))


def test_a_slow_tokenizer_gives_the_windows_that_a_fast_one_gives(bertweet, tokenizer):
    """Of as many tokens, a text has the same windows with both."""
    long = " ".join("abcdefghijklmnopqrstuvwxyz" * 2)
    assert not bertweet.is_fast
    count = len(bertweet(long, add_special_tokens=False)["input_ids"])
    for texts, limit in ((["a b", long, "c"], 16), ([long], 54), ([long], 55), ([long], 8)):
        slow, fast = (
            tokenize_dataset(Dataset.from_dict({"text": texts}), reader, limit, "windows")
            for reader in (bertweet, tokenizer)
        )
        assert slow["text_of"] == fast["text_of"]
        assert list(map(len, slow["input_ids"])) == list(map(len, fast["input_ids"]))
    # Put together without what they share, the windows of a text are the text.
    windows = [ids[1:-1] for ids in slow["input_ids"]]
    whole = windows[0] + [token for ids in windows[1:] for token in ids[2:]]
    assert whole == bertweet(long, add_special_tokens=False)["input_ids"]
    assert count == len(whole) == 52


def test_a_slow_tokenizer_gives_pairs_no_windows(bertweet):
    pairs = Dataset.from_dict({"text": ["a b"], "text_pair": ["c"]})
    with pytest.raises(ModelError) as refused:
        tokenize_dataset(pairs, bertweet, 8, "windows")
    assert "data.truncation" in refused.value.message


def padding_fraction(lengths, order, batch_size):
    """The share of a pass's tokens that is padding, between 0 and 1."""
    total = sum(
        len(rows) * int(lengths[list(rows)].max())
        for rows in (order[i : i + batch_size] for i in range(0, len(order), batch_size))
    )
    return 1 - float(lengths.sum()) / total
