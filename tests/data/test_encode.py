"""Tokens and batches."""

import numpy as np
import pytest
from datasets import Dataset

from kdcli.data.encode import (
    Batches,
    Collator,
    count_truncated,
    encode,
    equal_shares,
    lengths,
    like_lengths,
    padding_share,
)


@pytest.fixture
def like_clinc():
    """Lengths spread as those of CLINC's queries: about 11 tokens, 33 at the most."""
    random = np.random.default_rng(0)
    return np.clip(random.normal(11, 3.5, size=15_250).round().astype(int), 4, 33)


def test_batches_of_like_length_hold_little_padding(like_clinc):
    order = like_lengths(like_clinc, 48, seed=42, epoch=0).tolist()
    assert padding_share(like_clinc, order, 48) < 0.05
    unsorted = padding_share(like_clinc, list(range(len(like_clinc))), 48)
    assert unsorted > 0.3


def test_the_order_depends_on_seed_and_epoch(like_clinc):
    orders = [(7, 3), (7, 3), (7, 4), (8, 3)]
    one, again, later, other = (like_lengths(like_clinc, 48, *order).tolist() for order in orders)
    assert one == again
    assert one != later
    assert one != other


def test_balanced_each_class_is_drawn_as_often():
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    lengths = np.full(1000, 8)
    shares = equal_shares(labels)
    assert shares.sum() == pytest.approx(1)
    drawn = [labels[like_lengths(lengths, 16, 0, epoch, shares)] for epoch in range(5)]
    assert all(len(labels) == 1000 for labels in drawn)
    counts = np.bincount(np.concatenate(drawn))
    assert counts == pytest.approx([5000 / 3] * 3, rel=0.1)


@pytest.mark.parametrize("rows", [1, 47, 48, 49, 48 * 50 + 1, 48 * 100 + 47])
def test_no_number_of_rows_loses_one(rows):
    lengths = np.arange(rows) % 30 + 3
    assert sorted(like_lengths(lengths, 48, seed=0, epoch=0)) == list(range(rows))


@pytest.mark.parametrize("rows", [1, 3, 96, 97, 99])
def test_processes_share_every_batch_evenly(rows, monkeypatch):
    shares = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append(list(Batches(rows, 48, lambda: np.arange(rows))))
    assert len(shares[0]) == len(shares[1]) == -(-rows // 48)
    for i, (one, two) in enumerate(zip(*shares, strict=True)):
        batch = list(range(rows))[48 * i : 48 * (i + 1)]
        # None may stand idle: the two of them both take the only row.
        assert sorted({*one, *two}) == batch
        assert one == two == batch if len(batch) == 1 else abs(len(one) - len(two)) <= 1


def test_batches_don_t_come_in_order_of_length(like_clinc):
    order = like_lengths(like_clinc, 48, seed=42, epoch=0)
    longest = [like_clinc[order[i : i + 48]].max() for i in range(0, 50 * 48, 48)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_truncation_counts_only_texts_that_lose_something(tokenizer):
    split = Dataset.from_dict({"text": ["parcel " * 3, "parcel " * 4, "parcel " * 5]})
    per_word = len(tokenizer("parcel")["input_ids"]) - 2
    limit = 4 * per_word + 2
    encoded = encode(split, tokenizer, limit)
    assert lengths(encoded).tolist() == [3 * per_word + 2, limit, limit]
    assert count_truncated(split, encoded, tokenizer, limit) == 1


def test_pairs_are_encoded_with_their_token_types(tokenizer):
    split = Dataset.from_dict({"text": ["where is it"], "text_pair": ["my parcel"]})
    row = encode(split, tokenizer, 64)[0]
    assert row["token_type_ids"] == tokenizer("where is it", "my parcel")["token_type_ids"]


def test_a_batch_holds_what_the_model_takes_and_nothing_else(tokenizer):
    rows = [dict(encode(Dataset.from_dict({"text": [t]}), tokenizer, 64)[0]) for t in ("a", "a b")]
    for row, label in zip(rows, (3, 5), strict=True):
        row["labels"] = label
    batch = Collator(tokenizer, ("input_ids", "attention_mask"))(rows)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["labels"].tolist() == [3, 5]
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"][0].sum() < batch["attention_mask"][1].sum()
