"""What kd measures of a model is what plain transformers says of each text alone."""

import pytest
import torch
import transformers
from models.against_transformers import EQUAL, Wrong, evaluated, outcome
from models.architectures import ARCHITECTURES, LEFT_OUT, NOT_EVALUATED
from packaging.version import Version
from transformers.models.auto import modeling_auto

UNSET = int(1e30)  # what a tokenizer that knows no limit is saved with
OFFSET = [kind for kind, it in ARCHITECTURES.items() if it.offset]
UNLIMITED = [kind for kind, it in ARCHITECTURES.items() if not it.positions]
# One for each way to tell where a token stands: embeddings, those counted by the attention mask,
# rotation, a bias, and the state of those before.
DECODERS = ["gpt2", "opt", "llama", "bloom", "jamba"]
PADDING = {
    "left": {"tokenizer": {"padding_side": "left"}},
    "another id": {"pad_token_id": 3},
    "another id, left": {"pad_token_id": 3, "tokenizer": {"padding_side": "left"}},
    "no id": {"pad_token_id": None},
    "no id and no token": {"pad_token_id": None, "tokenizer": {"pad_token": None}},
    "no id, left": {"pad_token_id": None, "tokenizer": {"padding_side": "left"}},
    "-1": {"pad_token_id": -1},
}


def test_table_lists_every_text_classifier_of_transformers():
    names = set(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    unknown = names - {*ARCHITECTURES, *LEFT_OUT}
    if unknown and Version(transformers.__version__) >= Version("5.25"):
        pytest.skip(f"transformers is newer than the table, which lacks {sorted(unknown)}")
    assert not unknown


@pytest.mark.parametrize(
    "kind",
    # CANINE's tokenizer has each of a million characters for a token.
    [pytest.param(k, marks=pytest.mark.slow) if k == "canine" else k for k in ARCHITECTURES],
)
def test_evaluate_gives_each_text_the_logits_that_it_gets_alone(kind, tmp_path):
    found = outcome(evaluated, kind, tmp_path)
    assert NOT_EVALUATED.get(kind, EQUAL) in found


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_may_be_saved_with_any_padding(kind, padding, tmp_path):
    assert outcome(evaluated, kind, tmp_path, **PADDING[padding]) == EQUAL


@pytest.mark.parametrize("kind", [*OFFSET, *UNLIMITED, "mpt", "ctrl"])
def test_tokenizer_without_length_limit(kind, tmp_path):
    assert outcome(evaluated, kind, tmp_path, limit=UNSET) == EQUAL


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5", "modernbert"])
def test_weights_of_half_precision_are_read_as_float32(kind, dtype, tmp_path):
    assert outcome(evaluated, kind, tmp_path, dtype=dtype) == EQUAL


@pytest.mark.parametrize("kind", ["roberta", "llama", "bart"])
def test_weights_in_several_files(kind, tmp_path):
    assert outcome(evaluated, kind, tmp_path, max_shard_size="10KB") == EQUAL
    assert (tmp_path / kind / "model.safetensors.index.json").is_file()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["bart", "t5", "llama"])
def test_embeddings_tied_or_not(kind, tied, tmp_path):
    assert outcome(evaluated, kind, tmp_path, tie_word_embeddings=tied) == EQUAL


def test_wrong_logits_are_detected(tmp_path, monkeypatch):
    # kd is made to read texts from their ends, which plain transformers doesn't.
    monkeypatch.setattr("kdcli.data.tokenization.tokenize.TRUNCATION_SIDES", {None: "left"})
    with pytest.raises(Wrong, match="in texts of"):
        outcome(evaluated, "bert", tmp_path)
