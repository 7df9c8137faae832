"""An exported file answers as plain transformers does, whatever the architecture."""

import pytest
from models.against_transformers import EQUAL, exported, outcome
from models.architectures import ARCHITECTURES, NOT_EVALUATED, NOT_EXPORTED

# Positions with an offset, and a decoder that pads on the left; `-m slow` tries the others.
USUAL = ["roberta", "gpt2"]


@pytest.mark.parametrize(
    "kind",
    [k if k in USUAL else pytest.param(k, marks=pytest.mark.slow) for k in ARCHITECTURES],
)
def test_export_gives_each_text_the_logits_that_it_gets_alone(kind, tmp_path):
    found = outcome(exported, kind, tmp_path)
    assert (NOT_EVALUATED | NOT_EXPORTED).get(kind, EQUAL) in found
