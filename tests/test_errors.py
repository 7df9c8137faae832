"""Exit codes are a promise to scripts."""

import re

import pytest

from kdcli import errors
from kdcli.sanitize import count_noun


def every_error(base=errors.KdError):
    return [base, *(e for child in base.__subclasses__() for e in every_error(child))]


@pytest.mark.parametrize("error", every_error(), ids=lambda e: e.__name__)
def test_every_error_has_the_exit_code_that_the_tree_shows(error):
    drawn = dict(re.findall(r"(\w+Error) +(\d+) ", errors.__doc__))
    parent = next(e.__name__ for e in error.__mro__ if e.__name__ in {*drawn, "KdError"})
    assert error.exit_code == int(drawn.get(parent, 2))
    assert error.__name__ in errors.__doc__


def test_an_error_reads_as_a_sentence_and_the_way_out():
    assert str(errors.DataError("It is empty.", "Fill it.")) == "It is empty. Fill it."
    assert str(errors.DataError("It is empty.")) == "It is empty."


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 texts"), (1, "1 text"), (2, "2 texts"), (12345, "12,345 texts")]
)
def test_a_number_agrees_with_its_noun(count, words):
    assert count_noun(count, "text") == words
