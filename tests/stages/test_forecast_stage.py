"""A forecast is right about sizes and steps, and loads no weights."""

import shutil

import pytest

from kdcli.data.source import load
from kdcli.models import source, surgery
from kdcli.progress import Silent
from kdcli.recipe.schema import Recipe
from kdcli.stages.forecast import forecast

FIT = {"epochs": 3, "batch_size": 16, "gradient_accumulation": 2}


@pytest.fixture
def parts(tiny_backbone, small_data, tmp_path):
    folder = shutil.copytree(tiny_backbone, tmp_path / "no-weights")
    (folder / "model.safetensors").unlink()
    return {
        "name": "tiny",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(folder), "fine_tune": FIT},
        "distill": FIT,
    }


@pytest.mark.parametrize("architecture", ["distilbert", "same"])
@pytest.mark.parametrize("keep", [(0,), (1, 3)])
def test_sizes_are_those_of_the_real_models(
    parts, tiny_backbone, small_data, labels, architecture, keep
):
    student = {"keep": keep, "architecture": architecture}
    found = forecast(Recipe.model_validate({**parts, "student": student}), Silent())
    teacher = source.load_classifier(tiny_backbone, tuple(labels), fresh_head=True)
    cut = surgery.cut(teacher, (keep,), architecture)
    assert found["teacher"]["parameters"] == source.count_parameters(teacher)
    assert found["student"]["parameters"] == source.count_parameters(cut)
    assert found["distill"]["parameters"] == source.count_parameters(cut)


def test_a_pretrained_student_counts_with_a_head_for_the_data(parts, tiny_backbone, labels):
    recipe = Recipe.model_validate({**parts, "student": {"model": str(tiny_backbone)}})
    real = source.load_classifier(tiny_backbone, tuple(labels), fresh_head=True)
    found = forecast(recipe, Silent())
    assert found["student"]["parameters"] == source.count_parameters(real)


def test_steps_follow_rows_batches_and_epochs(parts):
    found = forecast(Recipe.model_validate(parts), Silent())
    rows = len(load(Recipe.model_validate(parts).data, 42).splits["train"])
    assert rows == 120
    assert found["distill"]["steps"] == found["teacher"]["steps"] == 3 * 4


def test_a_baseline_takes_as_long_and_states_of_the_teacher_longer(parts):
    assert "baseline" not in forecast(Recipe.model_validate(parts), Silent())
    compared = {**parts, "baseline": True}
    found = forecast(Recipe.model_validate(compared), Silent())
    assert found["baseline"] == found["distill"]
    losses = [{"kind": "cross_entropy"}, {"kind": "relations"}]
    live = {**compared, "distill": {**FIT, "losses": losses}}
    found = forecast(Recipe.model_validate(live), Silent())
    assert found["distill"]["seconds"] > 1.2 * found["baseline"]["seconds"]


def test_other_teachers_and_folds_are_fine_tuned_too(parts):
    teacher = parts["teacher"]
    alone = forecast(Recipe.model_validate(parts), Silent())
    several = {**parts, "teacher": {**teacher, "folds": 3, "also": [{"seed": 1}, {"seed": 2}]}}
    found = forecast(Recipe.model_validate(several), Silent())
    assert found["outputs"]["seconds"] > 2 * alone["teacher"]["seconds"]
    assert found["teacher"]["steps"] == alone["teacher"]["steps"]


def test_a_finished_teacher_takes_no_steps_and_a_longer_run_takes_longer(parts, tiny_teacher):
    finished = {**parts, "teacher": {"model": str(tiny_teacher)}}
    short = forecast(Recipe.model_validate(finished), Silent())
    assert "steps" not in short["teacher"]
    long = {**finished, "distill": {**FIT, "epochs": 300}}
    longer = forecast(Recipe.model_validate(long), Silent())
    assert longer["distill"]["seconds"] > 10 * short["distill"]["seconds"] > 0
