"""Students of families that are not kd's own."""

import json

import pytest
from transformers import AutoModelForSequenceClassification, BertConfig
from transformers import BertForSequenceClassification as Bert

import kdcli
from kdcli.errors import UsageError
from kdcli.models import model_io
from kdcli.pipeline import planning
from kdcli.pipeline.run_estimate import estimate_run
from kdcli.pipeline.run_folder import RunFolder
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe
from kdcli.recipe.student import StudentConfig
from kdcli.recipe.student_family_plugin import StudentFamilyContext, StudentFamilyPlugin

FAMILY = f"{__name__}:ScratchBert"


class ScratchBert(StudentFamilyPlugin):
    """A BERT from random weights, with the teacher's tokenizer."""

    width: int = 16

    def build(self, context):
        """Build the model."""
        config = BertConfig(
            vocab_size=len(context.tokenizer),
            hidden_size=self.width,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            num_labels=len(context.label_names),
        )
        return Bert(config), context.tokenizer


@pytest.fixture
def recipe(small_data, tiny_teacher):
    return {
        "name": "family",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_teacher)},
        "student": {"family": FAMILY, "options": {"width": 12}},
        "distill": {"epochs": 1, "batch_size": 32},
        "evaluate": {"latency_texts": 2, "baselines": []},
    }


def test_distill_trains_student_of_family(recipe, tmp_path, labels):
    run = kdcli.distill(recipe, output=tmp_path / "run", allow_code=True)
    student = AutoModelForSequenceClassification.from_pretrained(run.path / "student")
    assert (student.config.hidden_size, student.config.num_hidden_layers) == (12, 1)
    assert list(model_io.get_label_names(student.config)) == list(labels)
    assert FAMILY in run.results["student"]["origin"]
    assert "student" in run.metrics
    record = json.loads((run.path / "run.json").read_text())["stages"]["student"]
    assert record["spec"]["student"]["options"] == {"width": 12}
    assert "fine-tuned version" not in (run.path / "student" / "README.md").read_text()
    changed = Recipe.model_validate(recipe | {"student": {"family": FAMILY}})
    plan = {p.stage.name: p.reason for p in planning.plan_stages(changed, RunFolder.open(run.path))}
    assert plan["teacher"] is None and "options" in plan["student"]


def test_family_is_code_that_has_to_be_allowed(recipe, tmp_path):
    with pytest.raises(UsageError, match="ScratchBert"):
        kdcli.distill(recipe, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("student", "key"),
    [
        ({"family": FAMILY, "drop_every": 2}, "drop_every"),
        ({"family": FAMILY, "model": "owner/model"}, "model"),
        ({"family": FAMILY, "options": {"depth": 2}}, "depth"),
        ({"family": FAMILY, "options": {"width": "wide"}}, "width"),
        ({"options": {"width": 2}}, "options"),
    ],
)
def test_wrong_keys_are_refused(student, key, monkeypatch):
    monkeypatch.setattr("kdcli.recipe.student.find_student_family_plugin", lambda name: ScratchBert)
    with pytest.raises(ValueError, match=key):
        StudentConfig.model_validate(student)


def test_stage_keys_without_family_have_no_new_parts(recipe, tmp_path):
    plain = Recipe.model_validate(recipe | {"student": {"drop_every": 2}})
    for plan in planning.plan_stages(plain, RunFolder.open(tmp_path)):
        assert not {"family", "options"} & plan.spec.get("student", {}).keys()


def test_estimate_has_size_of_family_student(recipe, tokenizer, labels, monkeypatch):
    monkeypatch.setattr("kdcli.recipe.student.find_student_family_plugin", lambda name: ScratchBert)
    context = StudentFamilyContext(None, tokenizer, (), tuple(labels), None)
    model, _ = ScratchBert(width=12).build(context)
    estimate = estimate_run(Recipe.model_validate(recipe), SilentReporter())
    assert estimate["student"]["parameters"] == model_io.count_parameters(model)
