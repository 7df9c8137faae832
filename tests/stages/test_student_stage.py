"""Cutting a student out of a model that belongs to no run."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from kdcli.errors import ModelError, UsageError
from kdcli.progress import Silent
from kdcli.recipe.schema import StudentSpec
from kdcli.stages.student import cut_out, describe


class Listener(Silent):
    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


def test_a_student_of_a_classifier_keeps_its_head_and_labels(tiny_teacher, labels, tmp_path):
    result = cut_out(
        str(tiny_teacher), StudentSpec(keep=(0, 3)), tmp_path / "s", Silent(), replace=False
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
        cut_out(str(tiny_backbone), StudentSpec(), tmp_path / name, listener, replace=False)
        heads.append(load_file(tmp_path / name / "model.safetensors")["classifier.weight"])
    assert torch.equal(*heads)
    assert "no classification head" in listener.said[0]


def test_what_is_there_is_replaced_only_where_that_is_asked(tiny_teacher, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"exists.*--fresh"):
        cut_out(str(tiny_teacher), StudentSpec(), folder, Silent(), replace=False)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    cut_out(str(tiny_teacher), StudentSpec(), folder, Silent(), replace=True)
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "mine.txt").exists()


def test_a_cut_that_fails_leaves_what_was_there(tiny_teacher, tmp_path):
    folder = tmp_path / "s"
    cut_out(str(tiny_teacher), StudentSpec(), folder, Silent(), replace=False)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ModelError, match="names layer 9"):
        cut_out(str(tiny_teacher), StudentSpec(keep=(9,)), folder, Silent(), replace=True)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_student_may_replace_its_own_teacher(tiny_teacher, tmp_path):
    folder = shutil.copytree(tiny_teacher, tmp_path / "model")
    cut_out(str(folder), StudentSpec(keep=(1,)), folder, Silent(), replace=True)
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.n_layers == 1


def test_a_file_is_no_place_for_a_model(tiny_teacher, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        cut_out(str(tiny_teacher), StudentSpec(), tmp_path / "file", Silent(), replace=True)


@pytest.mark.parametrize(
    ("model_type", "end"),
    [("roberta", "(counted from 0)."), ("distilbert", "without token-type embeddings and pooler.")],
)
def test_a_cut_is_told_in_one_sentence(model_type, end):
    sentence = describe((0, 2), 4, model_type)
    assert sentence.startswith("It starts from layers 0, 2 of the teacher's 4")
    assert sentence.endswith(end)
