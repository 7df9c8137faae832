"""Selection of the layers to keep."""

from itertools import pairwise

import pytest

from kdcli.errors import ModelError
from kdcli.models import layer_selection
from kdcli.models.layer_stacks import LayerStack
from kdcli.recipe.student import StudentConfig

BOTH = (
    LayerStack("encoder.layers", "encoder", "encoder_layers", 6),
    LayerStack("decoder.layers", "decoder", "decoder_layers", 4),
)


def one(depth):
    return (LayerStack("layers", "", "num_hidden_layers", depth),)


@pytest.mark.parametrize(
    ("spec", "depth", "kept"),
    [
        ({"drop_every": 2}, 6, (0, 2, 4)),
        ({"drop_every": 2}, 12, (0, 2, 4, 6, 8, 10)),
        ({"drop_every": 3}, 6, (0, 1, 3, 4)),
        ({}, 4, (0, 2)),
        ({"keep_layers": (1, 3)}, 4, (1, 3)),
        ({"num_hidden_layers": 6}, 12, (0, 2, 4, 7, 9, 11)),
        ({"num_hidden_layers": 3}, 6, (0, 3, 5)),
        ({"num_hidden_layers": 1}, 6, (0,)),
        ({"num_hidden_layers": 6}, 6, (0, 1, 2, 3, 4, 5)),
        ({"num_hidden_layers": 2, "strategy": "first"}, 6, (0, 1)),
        ({"num_hidden_layers": 2, "strategy": "last"}, 6, (4, 5)),
    ],
)
def test_selected_layers(spec, depth, kept):
    assert layer_selection.select_layers(StudentConfig(**spec), one(depth)) == (kept,)


@pytest.mark.parametrize("depth", range(2, 49))
def test_spaced_layers_include_both_ends_evenly(depth):
    for count in range(2, depth + 1):
        kept = layer_selection.evenly_spaced_layers(count, depth)
        gaps = {after - before for before, after in pairwise(kept)}
        assert (kept[0], kept[-1], len(kept)) == (0, depth - 1, count)
        assert max(gaps) - min(gaps) <= 1
        assert min(gaps) >= 1


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ({"drop_every": 3}, ((0, 1, 3, 4), (0, 1, 3))),
        ({"keep_layers": (0, 1)}, ((0, 1), (0, 1))),
        ({"num_hidden_layers": 2}, ((0, 5), (0, 3))),
        ({"num_hidden_layers": 2, "num_decoder_layers": 1}, ((0, 5), (0,))),
        ({"num_hidden_layers": 6, "keep_decoder_layers": (3,)}, ((0, 1, 2, 3, 4, 5), (3,))),
        ({"num_decoder_layers": 1, "strategy": "last"}, ((0, 2, 4), (3,))),
    ],
)
def test_decoder_follows_encoder_unless_it_has_its_own_keys(spec, kept):
    assert layer_selection.select_layers(StudentConfig(**spec), BOTH) == kept


@pytest.mark.parametrize(
    ("spec", "stacks", "says"),
    [
        (
            {"keep_layers": (0, 9)},
            one(6),
            "keep_layers names layer 9, and the teacher has 6 layers, 0 to 5",
        ),
        (
            {"keep_layers": (0, 5)},
            BOTH,
            "keep_layers names layer 5, and the teacher's decoder has 4 layers",
        ),
        ({"num_hidden_layers": 9}, one(6), "num_hidden_layers is 9, and the teacher has 6 layers"),
        (
            {"num_decoder_layers": 9},
            BOTH,
            "num_decoder_layers is 9, and the teacher's decoder has 4",
        ),
        ({"keep_decoder_layers": (0,)}, one(6), "keep_decoder_layers: the teacher has one stack"),
    ],
)
def test_missing_layer_is_refused(spec, stacks, says):
    with pytest.raises(ModelError, match=says):
        layer_selection.select_layers(StudentConfig(**spec), stacks)


def test_measured_selection_is_called_per_stack():
    asked = []

    def measured(stack, count):
        asked.append((stack.part, count))
        return (1, 2)

    spec = StudentConfig(num_hidden_layers=2, strategy="importance")
    assert layer_selection.select_layers(spec, BOTH, measured) == ((1, 2), (1, 2))
    assert asked == [("encoder", 2), ("decoder", 2)]
    assert layer_selection.select_layers(spec, BOTH) == ((0, 5), (0, 3)), "until they are measured"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            {"keep_layers": (0,), "num_hidden_layers": 2},
            "takes one of drop_every, keep_layers, num_hidden_layers, model",
        ),
        (
            {"keep_decoder_layers": (0,), "num_decoder_layers": 2},
            "not keep_decoder_layers and num_decoder_layers",
        ),
        ({"strategy": "last"}, "no number of layers"),
        ({"keep_layers": (2, 1)}, "rising order"),
        ({"keep_decoder_layers": (1, 1)}, "rising order"),
        ({"model": "x", "architecture": "distilbert"}, "cut from the teacher"),
    ],
)
def test_contradicting_keys_are_refused(spec, says):
    with pytest.raises(ValueError, match=says):
        StudentConfig(**spec)
