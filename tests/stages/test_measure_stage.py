"""Measuring any models on any texts."""

import shutil

import pytest

from kdcli.errors import UsageError
from kdcli.progress import Silent
from kdcli.recipe.load import dump
from kdcli.recipe.schema import Recipe
from kdcli.stages.measure import measure

FEW = ("evaluate.latency_texts=1", "--latency-texts 1")


def on(small_data):
    return [(f"data.dataset={small_data}", "--data"), ("data.label=intent", "--label"), FEW]


@pytest.fixture
def run(tiny_teacher, small_data, tmp_path):
    """What a run leaves, as far as measuring reads it."""
    folder = tmp_path / "run"
    for part in ("teacher", "student"):
        shutil.copytree(tiny_teacher, folder / part)
    # No validation split of its own: a part of train is set aside.
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(small_data / "train.csv", data / "train.csv")
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "data": {"dataset": str(data), "label": "intent", "validation_fraction": 0.3},
            "teacher": {"model": str(tiny_teacher)},
            "evaluate": {"splits": ["validation"]},
        }
    )
    (folder / "recipe.yaml").write_text(dump(recipe))
    return folder


def test_a_run_stands_for_its_teacher_and_student(run):
    found = measure([str(run)], [FEW], Silent())
    assert [model["name"] for model in found["models"]] == ["teacher", "student"]
    assert found["models"][1]["splits"]["validation"]["agreement"] == 1.0


def test_validation_is_the_part_that_the_run_set_aside(run):
    assert measure([str(run)], [FEW], Silent())["examples"] == {"validation": 36}


def test_a_model_inside_a_run_is_measured_on_the_runs_data(run):
    found = measure([str(run / "student")], [FEW], Silent())
    assert found["examples"] == {"validation": 36}
    assert [model["name"] for model in found["models"]] == ["student"]


def test_two_runs_are_told_apart(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    found = measure([str(run), str(other)], [FEW], Silent())
    assert [model["name"] for model in found["models"]] == [
        "run/teacher", "run/student", "other/teacher", "other/student",
    ]  # fmt: skip


def test_any_model_is_measured_on_any_texts(tiny_teacher, small_data):
    found = measure([str(tiny_teacher)], on(small_data), Silent())
    assert found["examples"] == {"validation": 34, "test": 34}


def test_a_single_file_is_measured_whatever_its_split_is_called(tiny_teacher, small_data):
    found = measure([str(tiny_teacher)], on(small_data / "test.csv"), Silent())
    assert found["examples"] == {"train": 34}


def test_a_model_of_no_run_needs_texts(tiny_teacher):
    with pytest.raises(UsageError, match=r"belongs to no run.*--data"):
        measure([str(tiny_teacher)], [], Silent())
