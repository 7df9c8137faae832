"""Students that are narrower than their teachers, or know fewer pieces, from end to end."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from kdcli.api.student_init import create_untrained_student
from kdcli.errors import UsageError
from kdcli.models import model_io
from kdcli.pipeline.run_estimate import estimate_run
from kdcli.pipeline.runner import run_pipeline
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import InitStudentCommandConfig, Recipe

FIT = {"epochs": 1, "batch_size": 32}


@pytest.fixture
def cut(small_data, tmp_path):
    def make(model, student, *, texts=True, **options):
        data = {"dataset": str(small_data)} if texts else None
        spec = InitStudentCommandConfig.model_validate({"student": student, "data": data})
        return create_untrained_student(
            str(model), spec, tmp_path / "s", SilentReporter(), overwrite=True, **options
        )

    return make


def test_a_classifier_that_loses_pieces_answers_as_before(tiny_teacher, cut, tmp_path, small_data):
    result = cut(tiny_teacher, {"trim_vocab": 550})
    assert result["agreement"] == 1
    assert (result["pieces"], result["teacher"]["pieces"]) == (550, 600)
    assert result["layers"] == [0, 1, 2, 3]
    assert "550 tokens" in result["origin"]
    known = (small_data / "train.csv").read_text().splitlines()[1].split(",")[0].strip('"')
    before, after = (
        pipeline("text-classification", str(folder))(known)[0]
        for folder in (tiny_teacher, tmp_path / "s")
    )
    assert before["label"] == after["label"]
    assert before["score"] == pytest.approx(after["score"], abs=1e-5)


def test_what_a_dry_run_tells_is_what_comes(tiny_teacher, cut, tmp_path):
    student = {"keep_layers": (0, 3), "intermediate_size": 20, "trim_vocab": 520}
    plan = cut(tiny_teacher, student, dry_run=True)
    assert not (tmp_path / "s").exists()
    real = cut(tiny_teacher, student)
    assert real.items() >= plan.items()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert model.num_parameters() == plan["parameters"]
    assert (model.config.model_type, model.config.hidden_dim) == ("distilbert", 20)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "s")) == model.config.vocab_size == 520
    told = json.loads((tmp_path / "s/config.json").read_text())["kd"]
    assert told["layers"] == [0, 3]
    assert (told["teacher_ffn"], told["teacher_pieces"]) == (64, 600)


def test_pieces_are_those_of_the_guide_where_no_number_is_given(tiny_teacher, cut):
    # 16,000 are more than it has.
    assert cut(tiny_teacher, {"trim_vocab": True})["pieces"] == 600


def test_a_backbone_is_narrowed_by_its_hidden_states(tiny_backbone, cut, tmp_path):
    result = cut(tiny_backbone, {"intermediate_size": 32})
    assert result["ffn"] == 32
    assert "agreement" not in result
    whole = load_file(tiny_backbone / "model.safetensors")
    part = load_file(tmp_path / "s/model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    columns = {tuple(c.tolist()) for c in whole[name].unbind(1)}
    assert {tuple(c.tolist()) for c in part[f"bert.{name}"].unbind(1)} < columns


def test_fresh_weights_are_said_to_be_and_the_same_each_time(tiny_teacher, cut, tmp_path):
    heads = []
    for _ in range(2):
        result = cut(tiny_teacher, {"hidden_size": 16, "num_hidden_layers": 2}, texts=False)
        heads.append(load_file(tmp_path / "s/model.safetensors")["classifier.weight"])
    assert torch.equal(*heads)
    assert result["origin"].startswith("It starts from nothing: a distilbert of 2 layers, 16 wide")
    assert (result["hidden"], result["heads"], result["ffn"]) == (16, 1, 32)
    assert json.loads((tmp_path / "s/config.json").read_text())["kd"]["weights"] == "random"


@pytest.mark.parametrize(
    "student",
    [
        {"intermediate_size": 32},
        {"trim_vocab": True},
        {"intermediate_size": 8, "num_hidden_layers": 1},
    ],
)
def test_what_is_measured_needs_texts(tiny_teacher, cut, student):
    with pytest.raises(UsageError, match=r"needs texts.*--data"):
        cut(tiny_teacher, student, texts=False)


@pytest.fixture
def recipe(tiny_teacher, tiny_backbone, small_data):
    def make(**student):
        return Recipe.model_validate({
            "name": "tiny",
            "data": {"dataset": str(small_data), "label": "intent"},
            "teacher": {"model": str(tiny_teacher)},
            "student": student,
            "distill": FIT,
        })  # fmt: skip

    return make


@pytest.mark.parametrize("other", [False, True], ids=["the teacher", "another model"])
def test_a_recipe_s_own_texts_decide_and_the_student_learns(recipe, other, tiny_backbone, tmp_path):
    layers = {"model": str(tiny_backbone)} if other else {"drop_every": 2}
    made = recipe(**layers, intermediate_size=40, trim_vocab=540)
    run = run_pipeline(made, tmp_path / "run", SilentReporter(), until="distill")
    folder = tmp_path / "run/student"
    model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
    assert len(tokenizer) == model.config.vocab_size == 540
    assert run.records["distill"].result["parameters"] == model_io.count_parameters(model)
    assert estimate_run(made, SilentReporter())["student"][
        "parameters"
    ] == model_io.count_parameters(model)
    assert "540 tokens" in run.records["student"].result["origin"]


def test_a_student_cut_before_tells_of_its_teacher_still(recipe, cut, tiny_backbone, tmp_path):
    cut(tiny_backbone, {"keep_layers": (0, 2)}, texts=False)
    made = recipe(model=str(tmp_path / "s"))
    run = run_pipeline(made, tmp_path / "run", SilentReporter(), until="student")
    told = f"That was cut out of {tiny_backbone.name}: layers 0, 2 of 4 (counted from 0)."
    assert told in run.records["student"].result["origin"]
    assert run.records["student"].result["besides"] == [told]
