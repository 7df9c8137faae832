"""Cutting a student out of a model that belongs to no run."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import Listener
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, ViTConfig, XLMConfig

from kdcli.api.student_init import create_untrained_student
from kdcli.errors import ModelError, UsageError
from kdcli.models.layer_stacks import LayerStack
from kdcli.models.student_pruning import describe_kept_layers
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import InitStudentCommandConfig


def cut_out(model, student, folder, reporter, *, replace=False, data=None, **options):
    spec = InitStudentCommandConfig(student=student, data=data)
    return create_untrained_student(model, spec, folder, reporter, overwrite=replace, **options)


def test_a_student_of_a_classifier_keeps_its_head_and_labels(tiny_teacher, labels, tmp_path):
    result = cut_out(
        str(tiny_teacher), {"keep_layers": (0, 3)}, tmp_path / "s", SilentReporter(), replace=False
    )
    student, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "s", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert [student.config.id2label[i] for i in range(17)] == labels
    whole = load_file(tiny_teacher / "model.safetensors")
    assert torch.equal(student.classifier.weight, whole["classifier.weight"])
    assert result["layers"] == [0, 3]
    assert result["parameters"] == sum(p.numel() for p in student.parameters())


def test_a_backbone_gets_a_head_of_the_same_bits_each_time_and_it_is_said(tiny_backbone, tmp_path):
    listener, heads = Listener(), []
    for name in ("one", "two"):
        cut_out(str(tiny_backbone), {}, tmp_path / name, listener)
        heads.append(load_file(tmp_path / name / "model.safetensors")["classifier.weight"])
    assert torch.equal(*heads)
    assert "no classification head" in listener.said[0]


def test_what_is_there_is_replaced_only_where_that_is_asked(tiny_teacher, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"exists.*--fresh"):
        cut_out(str(tiny_teacher), {}, folder, SilentReporter())
    with pytest.raises(UsageError, match=r"mine\.txt"):
        cut_out(str(tiny_teacher), {}, folder, SilentReporter(), replace=True)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    for layers in ((0,), (0, 3)):  # the first replaces an empty folder, the second a student
        cut_out(str(tiny_teacher), {"keep_layers": layers}, folder, SilentReporter(), replace=True)
        student = AutoModelForSequenceClassification.from_pretrained(folder)
        assert student.config.n_layers == len(layers)


def test_the_working_folder_is_not_replaced(tiny_teacher, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (Path(), Path("..")):
        with pytest.raises(UsageError, match="--output"):
            cut_out(str(tiny_teacher), {}, folder, SilentReporter(), replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_cut_that_fails_leaves_what_was_there(tiny_teacher, tmp_path):
    folder = tmp_path / "s"
    cut_out(str(tiny_teacher), {}, folder, SilentReporter())
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ModelError, match="names layer 9"):
        cut_out(str(tiny_teacher), {"keep_layers": (9,)}, folder, SilentReporter(), replace=True)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_student_may_replace_its_own_teacher(tiny_teacher, tmp_path):
    folder = shutil.copytree(tiny_teacher, tmp_path / "model")
    cut_out(str(folder), {"keep_layers": (1,)}, folder, SilentReporter(), replace=True)
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.n_layers == 1


def test_a_file_is_no_place_for_a_model(tiny_teacher, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        cut_out(str(tiny_teacher), {}, tmp_path / "file", SilentReporter(), replace=True)


def test_a_dry_run_writes_nothing_and_needs_no_weights(tiny_teacher, tmp_path):
    model = shutil.copytree(tiny_teacher, tmp_path / "model")
    whole = (model / "model.safetensors").stat().st_size
    shown = []
    plan = cut_out(
        str(model),
        {"num_hidden_layers": 2},
        tmp_path / "s",
        SilentReporter(),
        dry_run=True,
        show_summary=shown.append,
    )
    (model / "model.safetensors").unlink()
    again = cut_out(
        str(model), {"num_hidden_layers": 2}, tmp_path / "s", SilentReporter(), dry_run=True
    )
    assert shown == [plan]
    assert not (tmp_path / "s").exists()
    assert plan["layers"] == again["layers"] == [0, 3]
    assert plan["teacher"]["megabytes"] == whole / 1e6
    assert 1.9 < plan["speedup"] < 2.1
    real = cut_out(str(tiny_teacher), {"num_hidden_layers": 2}, tmp_path / "s", SilentReporter())
    assert real == plan
    weights = (tmp_path / "s/model.safetensors").stat().st_size / 1e6
    assert abs(real["megabytes"] - weights) < 0.01


def test_a_student_knows_where_it_comes_from(tiny_teacher, tmp_path):
    cut_out(str(tiny_teacher), {"num_hidden_layers": 2}, tmp_path / "s", SilentReporter())
    assert json.loads((tmp_path / "s/config.json").read_text())["kd"] == {
        "teacher": tiny_teacher.name,
        "layers": [0, 3],
        "teacher_layers": 4,
        "strategy": "spaced",
        "form": "distilbert",
    }
    # And so does what is made of it.
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    model.save_pretrained(tmp_path / "trained")
    assert json.loads((tmp_path / "trained/config.json").read_text())["kd"]["layers"] == [0, 3]


def opinionated(origin, folder):
    """A copy of an untrained model with larger weights.

    As they begin, layers do next to nothing, and all texts get one answer.
    """
    model = shutil.copytree(origin, folder)
    weights = load_file(model / "model.safetensors")
    larger = {name: w * (8 if w.dim() > 1 else 1) for name, w in weights.items()}
    save_file(larger, model / "model.safetensors", {"format": "pt"})
    return model


def test_with_texts_its_answers_are_compared_with_the_teachers(tiny_teacher, small_data, tmp_path):
    data = {"dataset": str(small_data)}
    model = opinionated(tiny_teacher, tmp_path / "model")
    whole, part = (
        cut_out(str(model), {"keep_layers": keep, "architecture": "same"}, tmp_path / name,
                SilentReporter(), data=data)
        for name, keep in {"whole": (0, 1, 2, 3), "part": (0,)}.items()
    )  # fmt: skip
    assert whole["agreement"] == 1
    assert part["agreement"] < 1
    assert part["texts"] == 120


@pytest.mark.parametrize("kind", ["tiny_teacher", "tiny_backbone"])
def test_layers_that_are_missed_least_are_left_out(kind, request, small_data, tmp_path):
    model = opinionated(request.getfixturevalue(kind), tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    for name in weights:
        # A layer whose parts add nothing passes on what it is given.
        if re.search(r"layer\.[02]\..*output\.dense", name):
            weights[name].zero_()
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    listener = Listener()
    student = {"num_hidden_layers": 2, "strategy": "importance"}
    data = {"dataset": str(small_data)}
    result = cut_out(str(model), student, tmp_path / "s", listener, data=data)
    assert result["layers"] == [1, 3]
    assert "those that it does worst without" in result["origin"]
    assert json.loads((tmp_path / "s/config.json").read_text())["kd"]["strategy"] == "importance"
    assert listener.told[-1] == (7, 7)


def test_measuring_takes_texts(tiny_teacher, tmp_path):
    student = {"num_hidden_layers": 2, "strategy": "importance"}
    with pytest.raises(UsageError, match=r"needs texts.*--data"):
        cut_out(str(tiny_teacher), student, tmp_path / "s", SilentReporter())


def in_shards(folder):
    weights = load_file(folder / "model.safetensors")
    shards = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(weights)}
    for shard in set(shards.values()):
        part = {name: weights[name] for name, place in shards.items() if place == shard}
        save_file(part, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_a_model_in_shards_is_cut(tiny_teacher, tmp_path):
    model = shutil.copytree(tiny_teacher, tmp_path / "model")
    in_shards(model)
    for origin in (model, tiny_teacher):
        cut_out(str(origin), {}, tmp_path / origin.name, SilentReporter(), replace=True)
    one, two = (load_file(tmp_path / m.name / "model.safetensors") for m in (model, tiny_teacher))
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("other", "says"),
    [(ViTConfig(), "type vit is no text classifier"), (XLMConfig(), "type xlm: its parameters")],
    ids=["a vision model", "no numbered layers"],
)
def test_a_model_that_can_t_be_cut_is_refused_by_name(other, says, tiny_teacher, tmp_path):
    model = shutil.copytree(tiny_teacher, tmp_path / "model")
    other.save_pretrained(model)
    with pytest.raises(ModelError, match=says) as raised:
        cut_out(str(model), {}, tmp_path / "s", SilentReporter())
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "s").exists()


def test_a_pickle_is_refused(tiny_teacher, tmp_path):
    model = shutil.copytree(tiny_teacher, tmp_path / "model")
    (model / "model.safetensors").unlink()
    torch.save({}, model / "pytorch_model.bin")
    with pytest.raises(ModelError):
        cut_out(str(model), {}, tmp_path / "s", SilentReporter())


ENCODER, DECODER = LayerStack("e", "encoder", "", 4), LayerStack("d", "decoder", "", 3)


@pytest.mark.parametrize(
    ("stacks", "keep", "form", "strategy", "sentence"),
    [
        (
            (LayerStack("x", "", "", 4),), ((0, 2),), "same", "spaced",
            "It starts from layers 0, 2 of the teacher's 4 (counted from 0).",
        ),
        (
            (LayerStack("x", "", "", 4),), ((0, 2),), "distilbert", "importance",
            "It starts from layers 0, 2 of the teacher's 4 (counted from 0), those that it does "
            "worst without, in DistilBERT's form, without token-type embeddings and pooler.",
        ),
        (
            (ENCODER, DECODER), ((0, 2), (0,)), "same", "spaced",
            "It starts from layers 0, 2 of the teacher's encoder's 4 and 0 of its decoder's 3 "
            "(counted from 0).",
        ),
        (
            (LayerStack("x", "", "", 12, shared=True),), ((0, 2, 4),), "same", "spaced",
            "It goes 3 times through the layer that its teacher goes through 12 times.",
        ),
    ],
)  # fmt: skip
def test_a_cut_is_told_in_one_sentence(stacks, keep, form, strategy, sentence):
    assert describe_kept_layers(stacks, keep, form, strategy) == sentence
