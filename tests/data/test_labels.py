"""Labels are matched by name."""

import pytest

from kdcli.data.labels import match_labels
from kdcli.errors import ModelError


def test_order_is_of_no_consequence():
    assert match_labels(["a", "b", "c"], ["c", "a", "b"]) == [1, 2, 0]


def test_a_label_that_never_occurs_needs_no_match():
    assert match_labels(["a", "b"], ["a", "x"], present=["a"]) == [0, -1]


def test_nameless_labels_go_by_place():
    assert match_labels(["no", "yes"], ["LABEL_0", "LABEL_1"]) == [0, 1]


def test_names_that_differ_are_refused_with_both_lists():
    with pytest.raises(ModelError, match="'b': the data has a, b, the model a, x"):
        match_labels(["a", "b"], ["a", "x"])


def test_nameless_labels_of_another_number_are_refused():
    with pytest.raises(ModelError):
        match_labels(["a", "b", "c"], ["LABEL_0", "LABEL_1"])
