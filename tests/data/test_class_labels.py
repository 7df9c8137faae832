"""Labels are matched by name."""

import pytest

from kdcli.data.labels.label_matching import explain_label_match, match_labels
from kdcli.errors import ModelError


def test_order_is_of_no_consequence():
    assert match_labels(["a", "b", "c"], ["c", "a", "b"]) == [1, 2, 0]


def test_a_label_that_never_occurs_needs_no_match():
    assert match_labels(["a", "b"], ["a", "x"], present_labels=["a"]) == [0, -1]


def test_nameless_labels_go_by_place():
    assert match_labels(["no", "yes"], ["LABEL_0", "LABEL_1"]) == [0, 1]


def test_names_that_differ_are_refused_with_both_lists():
    with pytest.raises(ModelError, match="'b': the data has a, b, the model a, x"):
        match_labels(["a", "b"], ["a", "x"])


def test_nameless_labels_of_another_number_are_refused():
    with pytest.raises(ModelError):
        match_labels(["a", "b", "c"], ["LABEL_0", "LABEL_1"])


OUTPUTS = [f"LABEL_{i}" for i in range(12)]
DIGITS = [str(i) for i in range(12)]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("data", [OUTPUTS, DIGITS, [f"label_{i:02}" for i in range(12)]])
@pytest.mark.parametrize("model", [OUTPUTS, DIGITS])
def test_numbered_labels_are_matched_by_number_in_whatever_order(data, model, ordered):
    shuffled = sorted(data, key=lambda name: name[::-1])
    ids = match_labels(shuffled, model, labels_are_ordered=ordered)
    assert [int(name[-2:].removeprefix("_")) for name in shuffled] == ids


def test_numbers_are_matched_where_some_never_occur():
    assert match_labels(["0", "3"], OUTPUTS, labels_are_ordered=False) == [0, 3]
    assert match_labels(["a", "3"], OUTPUTS, present_labels=["3"]) == [-1, 3]


@pytest.mark.parametrize("data", [["1", "2", "12"], ["-1", "0", "1"], ["1011", "62010", "47110"]])
def test_a_number_that_no_output_has_is_refused(data):
    with pytest.raises(ModelError):
        match_labels(data, OUTPUTS[: len(data)], labels_are_ordered=False)


def test_names_that_kd_has_sorted_are_never_matched_by_place():
    with pytest.raises(ModelError, match="id2label"):
        match_labels(["no", "yes"], OUTPUTS[:2], labels_are_ordered=False)


def test_data_without_names_takes_the_model_s_in_order():
    assert match_labels(OUTPUTS[:2], ["joy", "fear"]) == [0, 1]


@pytest.mark.parametrize(
    ("data", "model", "said"),
    [
        (["no", "yes"], OUTPUTS[:2], "order"),
        (["0", "1"], OUTPUTS[:2], "number"),
        (OUTPUTS[:2], ["joy", "fear"], "order"),
        (OUTPUTS[:2], OUTPUTS[:2], None),
        (["no", "yes"], ["yes", "no"], None),
        (["score"], ["LABEL_0"], None),
    ],
)
def test_how_labels_of_other_names_are_matched_is_said(data, model, said):
    why = explain_label_match(data, model)
    assert why is None if said is None else said in why
