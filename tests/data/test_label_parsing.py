"""What people write for labels: their order, and lists written as text."""

import json

import numpy as np
import pandas as pd
import pytest

from kdcli.data.labels.label_parsing import parse_list_text, similar_label_notes, sort_label_names


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10", "9", "1"], ["1", "9", "10"]),
        (["1", "-1", "0"], ["-1", "0", "1"]),
        (["62.01", "9.2", "10"], ["9.2", "10", "62.01"]),
        (["7", "007"], ["007", "7"]),
        ([f"LABEL_{i}" for i in (11, 2, 0)], ["LABEL_0", "LABEL_2", "LABEL_11"]),
        (["grade 10", "grade 9"], ["grade 9", "grade 10"]),
        (["a10", "b9"], ["a10", "b9"]),
        (["10", "9", "oos"], ["10", "9", "oos"]),
        ([], []),
    ],
)
def test_names_that_are_numbered_are_in_the_order_of_their_numbers(names, ordered):
    assert sort_label_names(names) == ordered


LISTS = [["app", "card"], ["it's", 'a "b"'], [], ["one"], ["a\nb", "c\\d"], ["é", "7"], [1, 0]]


@pytest.mark.parametrize("items", LISTS)
def test_a_list_is_read_as_pandas_and_json_write_it(items, tmp_path):
    forms = [items, tuple(items), np.array(items)]
    frame = pd.DataFrame({"cell": forms})
    frame.to_csv(tmp_path / "d.csv", index=False)
    cells = pd.read_csv(tmp_path / "d.csv", dtype=str)["cell"]
    for cell in (*cells, json.dumps(items)):
        assert parse_list_text(cell) == items, cell
    if items:
        assert sorted(parse_list_text(str(set(items)))) == sorted(items)


def test_numbers_with_a_point_are_read_as_numpy_writes_them():
    assert parse_list_text(str(np.array([0.0, 1.0]))) == [0.0, 1.0]


@pytest.mark.parametrize(
    "cell",
    ["app", "[app]", "['a'", "('a')", "{'a': 1}", "[[1]]", "[None]", "[" * 9999, "[1] a", "", None,
     7, "['a' for a in b]", "[__import__('os')]", "['a' ... 'b']", "[ham, spam]"],
)  # fmt: skip
def test_what_is_no_list_of_names_stays_text(cell):
    assert parse_list_text(cell) is None


def test_names_that_look_the_same_are_told():
    (note,) = similar_label_notes(
        ["fee", "FEE", "cafe\u0301", "café", "card  lost", "card lost", "other"]
    )
    for one in ("'fee' / 'FEE'", "'card  lost' / 'card lost'", "café"):
        assert one in note
    assert "other" not in note
    assert "'1' / '1.0'" in similar_label_notes(["1", "1.0", "2"])[0]
    assert similar_label_notes(["a", "b", "1", "2"]) == []
