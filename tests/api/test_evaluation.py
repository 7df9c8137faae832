"""Measuring any models on any texts."""

import shutil

import pytest

from kdcli.api.evaluation import evaluate_models
from kdcli.errors import UsageError
from kdcli.pipeline.run_folder import RunFolder, StageRecord
from kdcli.progress import SilentReporter
from kdcli.recipe.loading import dump_recipe
from kdcli.recipe.schema import Recipe
from kdcli.safe_files import file_digests

FEW = ("evaluate.latency_texts=1", "--latency-texts 1")


def measured(models, flags, **options):
    return evaluate_models(
        [str(model) for model in models], flags, SilentReporter(), **options
    ).evaluation


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
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    return folder


def test_a_run_whose_student_was_changed_is_not_measured(run):
    files = file_digests(run / "student")
    RunFolder(run, {"distill": StageRecord("k", {}, files, {}, 1.0)}).forget_stages([])
    assert measured([run], [FEW])
    weights = run / "student/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(UsageError, match=r"isn't whole: .*student/model.safetensors was changed"):
        measured([run], [FEW])


def test_a_run_stands_for_its_teacher_and_student(run):
    found = measured([run], [FEW])
    assert [model["name"] for model in found["models"]] == ["teacher", "student"]
    assert found["models"][1]["splits"]["validation"]["agreement"] == 1.0


def test_validation_is_the_part_that_the_run_set_aside(run):
    assert measured([run], [FEW])["examples"] == {"validation": 36}


def test_a_model_inside_a_run_is_measured_on_the_runs_data(run):
    found = measured([run / "student"], [FEW])
    assert found["examples"] == {"validation": 36}
    assert [model["name"] for model in found["models"]] == ["student"]


def test_two_runs_are_told_apart(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    found = measured([run, other], [FEW])
    assert [model["name"] for model in found["models"]] == [
        "run/teacher", "run/student", "other/teacher", "other/student",
    ]  # fmt: skip


def test_a_run_s_baseline_is_measured_too(run, tiny_teacher):
    shutil.copytree(tiny_teacher, run / "baseline")
    found = measured([run], [FEW])
    assert [m["name"] for m in found["models"]] == ["teacher", "student", "baseline"]
    assert [m["reference"] for m in found["models"]] == [None, "teacher", "teacher"]


def test_each_run_s_student_is_compared_with_its_own_teacher(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    found = measured([run, other], [FEW])
    assert [m["reference"] for m in found["models"]] == [
        None, "run/teacher", None, "other/teacher",
    ]  # fmt: skip


@pytest.mark.parametrize("named", ["run/student", "run/teacher", "apart"])
def test_the_model_to_compare_with_is_measured_once(run, tiny_teacher, tmp_path, named):
    shutil.copytree(tiny_teacher, tmp_path / "apart")
    found = measured([run], [FEW], reference_model=str(tmp_path / named))
    name = named.removeprefix("run/")
    expected = ["teacher", "student", *(["apart"] if name == "apart" else [])]
    assert [m["name"] for m in found["models"]] == expected
    assert [m["reference"] for m in found["models"]] == [
        None if one == name else name for one in expected
    ]


def test_a_model_here_has_a_name(tiny_teacher, small_data, monkeypatch):
    monkeypatch.chdir(tiny_teacher)
    (found,) = measured(["."], on(small_data))["models"]
    assert found["name"] == tiny_teacher.name


def test_any_model_is_measured_on_any_texts(tiny_teacher, small_data):
    found = measured([tiny_teacher], on(small_data))
    assert found["examples"] == {"validation": 34, "test": 34}


def test_a_single_file_is_measured_whatever_its_split_is_called(tiny_teacher, small_data):
    found = measured([tiny_teacher], on(small_data / "test.csv"))
    assert found["examples"] == {"test": 34}


def test_a_model_of_no_run_needs_texts(tiny_teacher):
    with pytest.raises(UsageError, match=r"belongs to no run.*--data"):
        measured([tiny_teacher], [])
