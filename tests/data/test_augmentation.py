"""Altered copies of texts: what stays, what goes, and that the seed decides."""

import pytest

from kdcli.data.augmentation import augment_texts
from kdcli.recipe.augmentation import AugmentationConfig

ROWS = [(" ".join(f"{letter}{i}" for i in range(20)),) for letter in "abcd"] * 50


def altered(seed=0, rows=ROWS, **spec):
    return [*augment_texts(rows, AugmentationConfig(**spec), seed)]


def share(found, rows=ROWS):
    return sum(len(words) for (words,) in found) / sum(len(text.split()) for (text,) in rows)


def test_so_many_words_are_left_out_and_the_others_stay_in_order():
    found = altered(drop=0.25)
    assert share(found) == pytest.approx(0.75, abs=0.02)
    for (text,), (words,) in zip(ROWS, found, strict=True):
        left = iter(text.split())
        assert all(word in left for word in words)


def test_so_many_are_to_be_written_anew():
    found = altered(drop=0, mask=0.3, model="x")
    assert share(found) == 1
    anew = sum(words.count(None) for (words,) in found)
    assert anew / (20 * len(ROWS)) == pytest.approx(0.3, abs=0.02)


def test_of_mixed_ones_the_second_half_is_another_text_s():
    found = altered(drop=0, crossover=1)
    for (text,), (words,) in zip(ROWS, found, strict=True):
        assert words[:10] == text.split()[:10]
        assert [word[1:] for word in words] == [str(i) for i in range(20)]
    assert sum(words[0][0] != words[-1][0] for (words,) in found) > len(ROWS) / 2


def test_each_copy_is_another_and_the_seed_decides():
    found = altered(copies=2, drop=0.5)
    assert len(found) == 2 * len(ROWS)
    assert found[: len(ROWS)] != found[len(ROWS) :]
    assert found == altered(copies=2, drop=0.5)
    assert found != altered(copies=2, drop=0.5, seed=1)


def test_a_text_of_one_word_keeps_it():
    assert altered(rows=[("yes",)] * 20, drop=0.9) == [(["yes"],)] * 20


def test_both_texts_of_a_pair_are_altered():
    found = altered(rows=[("a b c d", "e f g h")] * 50, drop=0.5)
    assert {tuple(map(len, row)) for row in found} > {(2, 2)}
    assert all(set(one) <= set("abcd") and set(two) <= set("efgh") for one, two in found)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"drop": 0}, "neither drop nor mask nor crossover"),
        ({"drop": 0.5, "mask": 0.5, "model": "x"}, "leave no word"),
        ({"mask": 0.1}, "both mask and model"),
        ({"model": "x"}, "both mask and model"),
    ],
)
def test_what_makes_no_sense_is_refused(spec, says):
    with pytest.raises(ValueError, match=says):
        AugmentationConfig(**spec)
