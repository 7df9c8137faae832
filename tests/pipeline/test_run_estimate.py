"""A forecast is right about sizes and steps, and loads no weights."""

import shutil

import pytest

from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.models import layer_pruning, model_io
from kdcli.pipeline.run_estimate import estimate_run
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe

FIT = {"epochs": 3, "batch_size": 16, "gradient_accumulation_steps": 2}


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
    student = {"keep_layers": keep, "architecture": architecture}
    found = estimate_run(Recipe.model_validate({**parts, "student": student}), SilentReporter())
    teacher = model_io.load_classifier(tiny_backbone, tuple(labels), allow_new_head=True)
    cut = layer_pruning.prune_layers(teacher, (keep,), architecture)
    assert found["teacher"]["parameters"] == model_io.count_parameters(teacher)
    assert found["student"]["parameters"] == model_io.count_parameters(cut)
    assert found["distill"]["parameters"] == model_io.count_parameters(cut)


def test_a_pretrained_student_counts_with_a_head_for_the_data(parts, tiny_backbone, labels):
    recipe = Recipe.model_validate({**parts, "student": {"model": str(tiny_backbone)}})
    real = model_io.load_classifier(tiny_backbone, tuple(labels), allow_new_head=True)
    found = estimate_run(recipe, SilentReporter())
    assert found["student"]["parameters"] == model_io.count_parameters(real)


def test_steps_follow_rows_batches_and_epochs(parts):
    found = estimate_run(Recipe.model_validate(parts), SilentReporter())
    rows = len(load_dataset_splits(Recipe.model_validate(parts).data, 42).splits["train"])
    assert rows == 120
    assert found["distill"]["steps"] == found["teacher"]["steps"] == 3 * 4


def test_a_baseline_takes_as_long_and_states_of_the_teacher_longer(parts):
    assert "baseline" not in estimate_run(Recipe.model_validate(parts), SilentReporter())
    compared = {**parts, "baseline": True}
    found = estimate_run(Recipe.model_validate(compared), SilentReporter())
    assert found["baseline"] == found["distill"]
    losses = [{"kind": "cross_entropy"}, {"kind": "attention_relations"}]
    live = {**compared, "distill": {**FIT, "losses": losses}}
    found = estimate_run(Recipe.model_validate(live), SilentReporter())
    assert found["distill"]["seconds"] > 1.2 * found["baseline"]["seconds"]


def test_other_teachers_and_folds_are_fine_tuned_too(parts):
    teacher = parts["teacher"]
    alone = estimate_run(Recipe.model_validate(parts), SilentReporter())
    several = {
        **parts,
        "teacher": {**teacher, "cross_fit_folds": 3, "ensemble_with": [{"seed": 1}, {"seed": 2}]},
    }
    found = estimate_run(Recipe.model_validate(several), SilentReporter())
    assert found["outputs"]["seconds"] > 2 * alone["teacher"]["seconds"]
    assert found["teacher"]["steps"] == alone["teacher"]["steps"]


def test_a_finished_teacher_takes_no_steps_and_a_longer_run_takes_longer(parts, tiny_teacher):
    finished = {**parts, "teacher": {"model": str(tiny_teacher)}}
    short = estimate_run(Recipe.model_validate(finished), SilentReporter())
    assert "steps" not in short["teacher"]
    long = {**finished, "distill": {**FIT, "epochs": 300}}
    longer = estimate_run(Recipe.model_validate(long), SilentReporter())
    assert longer["distill"]["seconds"] > 10 * short["distill"]["seconds"] > 0
