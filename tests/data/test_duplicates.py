"""Texts that occur more than once are told of."""

import random
import time

import pytest
from datasets import Dataset

from kdcli.data.checks import duplicates


def split(*rows):
    names = ("text", "label", "text_pair")
    columns = map(list, zip(*rows, strict=True))
    return Dataset.from_dict(dict(zip(names, columns, strict=False)))


def test_each_kind_is_counted_whatever_its_case_punctuation_and_spaces():
    train = split(("Stop!", 0), ("stop", 1), ("go on", 1), ("go  on.", 0), ("why?", 0))
    splits = {
        "train": train,
        "validation": split(("STOP", 1), ("why", 1), ("now", 0)),
        "test": split(("Go, on", 1), ("go on", 1), ("W H Y", 0)),
    }
    conflicts, overlap = duplicates.duplicate_notes(splits)
    assert "3, 2 of them within train" in conflicts
    assert "2 in validation, 2 in test" in overlap


def test_what_doesn_t_repeat_is_not_worth_a_word():
    train = split(("stop", 0), ("go on", 1), ("go on", 1))
    assert (
        duplicates.duplicate_notes({"train": train, "test": split(("goon", 0), ("stop it", 1))})
        == []
    )


def test_punctuation_alone_is_a_text_of_its_own():
    assert (
        duplicates.duplicate_notes({"train": split(("?", 0), ("!", 1)), "test": split(("?!", 1))})
        == []
    )


def test_a_pair_is_both_its_texts():
    train = split(("a", 0, "b"), ("a", 1, "c"), ("ab", 1, ""))
    assert duplicates.duplicate_notes({"train": train, "test": split(("a", 0, "d"))}) == []
    assert (
        "1 in test"
        in duplicates.duplicate_notes({"train": train, "test": split(("A.", 0, "B"))})[0]
    )


def test_without_train_only_labels_can_disagree():
    assert duplicates.duplicate_notes({"test": split(("a", 0), ("A", 1))}) == [
        "Texts with different labels: 1."
    ]


def test_twice_as_many_texts_take_about_twice_as_long():
    words = random.Random(0).choices([f"word{i}" for i in range(500)], k=400_000)

    def seconds(rows):
        texts = [" ".join(words[8 * i : 8 * i + 8]) for i in range(rows)]
        data = Dataset.from_dict({"text": texts, "label": [0] * rows})
        start = time.process_time()
        duplicates.duplicate_notes({"train": data, "test": data})
        return time.process_time() - start

    seconds(1000)
    assert seconds(40_000) < 10 * seconds(10_000)


def rows(*pairs, other=None):
    columns = {"text": [text for text, _ in pairs], "label": [label for _, label in pairs]}
    return Dataset.from_dict(columns | ({"text_pair": other} if other else {}))


def test_case_punctuation_and_spacing_are_no_difference():
    train = rows(("What's  my balance?", 1), ("Übergröße", 2), ("?!", 3))
    split = rows(
        ("whats my balance", 1), ("WHAT'S my balance", 0), ("übergrösse", 2), ("?!", 3),
        ("!?", 3), ("what is my balance", 1),
    )  # fmt: skip
    again, otherwise = duplicates.find_train_overlap(split, train)
    assert again.tolist() == [True, True, True, True, False, False]
    assert otherwise.tolist() == [False, True, False, False, False, False]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("दिन", "दीन"),  # day, poor: only a vowel sign differs
        ("สวย", "ส่วย"),  # beautiful, tribute: a tone mark
        ("ok 👍", "ok 👎"),
        ("ok", "ok 👍"),
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🏴󠁧󠁢󠁳󠁣󠁴󠁿"),  # England, Scotland
        ("-5 degrees", "5 degrees"),
        ("\u22125 degrees", "5 degrees"),
        ("send 1.5", "send 15"),
        ("at 10:30", "at 1030"),
        ("5%", "5"),
        ("$5", "€5"),
        ("a < b", "a > b"),
        ("C++", "C"),
        ("résumé", "resume"),
    ],
)
def test_texts_that_mean_something_else_are_no_repeats(one, other):
    first, second = duplicates.text_hashes(Dataset.from_dict({"text": [one, other]}))
    assert first != second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("re\u0301sume\u0301", "résumé"),  # composed and not
        ("\ufb01le \u2116\uff15", "File No5"),
        ("İstanbul", "istanbul"),
        ("\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2"),
        ("STRASSE", "straße"),
        ("\u201cWhat\u2019s up?\u201d \u2026", "whats up"),
        ("¿Qué?", "qué"),
        ("दिन।", "दिन"),
        ("\u22125", "-5"),
        ("co-op", "coop"),
        ("covid-19", "covid19"),
        ("a - 5 apples", "a 5 apples"),
        ("snake_case", "snakecase"),
        ("soft\u00adhyphen \u200bhere\ufeff", "softhyphen here"),
        ("❤️", "❤"),
        ("a\u00a0b\u3000c", "a b c"),
    ],
)
def test_texts_that_are_written_otherwise_are_repeats(one, other):
    first, second = duplicates.text_hashes(Dataset.from_dict({"text": [one, other]}))
    assert first == second


def test_a_text_with_two_labels_in_train_is_known_by_both():
    again, otherwise = duplicates.find_train_overlap(
        rows(("a", 0), ("a", 2)), rows(("a", 0), ("A", 1))
    )
    assert again.all()
    assert otherwise.tolist() == [False, True]


def test_a_pair_is_repeated_where_both_texts_are():
    train = rows(("one", 0), other=["two"])
    again, _ = duplicates.find_train_overlap(
        rows(("one", 0), ("one", 0), other=["two.", "three"]), train
    )
    assert again.tolist() == [True, False]


def test_rows_that_were_selected_are_those_that_count():
    train = rows(("a", 0), ("b", 0), ("c", 0)).select([2])
    again, _ = duplicates.find_train_overlap(rows(("a", 0), ("c", 0)), train)
    assert again.tolist() == [False, True]
