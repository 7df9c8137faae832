"""A run's outputs and figures are those of plain transformers, whatever the architecture."""

import pytest
from models.against_transformers import EQUAL, distilled, outcome
from models.architectures import ARCHITECTURES, NOT_CUT, NOT_EVALUATED

# One of each make; `-m slow` tries the others.
USUAL = ["bert", "roberta", "deberta-v2", "modernbert", "xlnet", "convbert", "big_bird", "esm",
         "gpt2", "llama", "jamba", "t5"]  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [k if k in USUAL else pytest.param(k, marks=pytest.mark.slow) for k in ARCHITECTURES],
)
def test_distil_into_half_the_layers(kind, tmp_path):
    found = outcome(distilled, kind, tmp_path)
    assert (NOT_EVALUATED | NOT_CUT).get(kind, EQUAL) in found


def test_distil_decoder_with_another_padding_token(tmp_path):
    padding = {"pad_token_id": 3, "tokenizer": {"padding_side": "left"}}
    assert outcome(distilled, "gpt2", tmp_path, **padding) == EQUAL
