"""The Python API does what the commands do, and prints nothing."""

import logging
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from datasets import Dataset
from helpers import kd

import kdcli
from kdcli.api.runs import resolve_recipe
from kdcli.errors import RecipeError
from kdcli.recipe.loading import dump_recipe
from kdcli.recipe.schema import Recipe
from kdcli.training.trainer import DistillationTrainer

FIT = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def recipe(tiny_backbone, small_data):
    return {
        "name": "tiny",
        "seed": 3,
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_backbone), "fine_tune": FIT},
        "student": {"keep_layers": [0, 3]},
        "distill": {**FIT, "epochs": 2},
        "evaluate": {"latency_texts": 1, "baselines": []},
    }


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "tiny"
    return kdcli.distill(recipe, overrides={"distill.epochs": 1}, output=folder)


def test_distill_gives_the_same_student_as_the_command(recipe, run, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(Recipe.model_validate(recipe)))
    made = kd("distill", file, "--set", "distill.epochs=1", "-o", tmp_path / "run")
    assert made.exit_code == 0
    weights = "student/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (run.path / weights).read_bytes()


def test_a_run_has_metrics_and_paths(run):
    assert 0 <= run.metrics["student"]["test"]["accuracy"] <= 1
    assert (run.student / "config.json").is_file()
    assert len(run.results["distill"]["history"]) == 1
    assert run.seeds is None
    assert kdcli.open_run(run.path).metrics == run.metrics


def test_nothing_is_printed_and_progress_is_reported(recipe, run, tmp_path, capfd, caplog):
    steps = []
    with caplog.at_level(logging.INFO, "kdcli"):
        teacher = kdcli.fine_tune_teacher(
            recipe, output=tmp_path / "run", progress=lambda *step: steps.append(step)
        )
    assert (teacher.teacher / "config.json").is_file()
    assert any(stage == "teacher" and done == total for stage, done, total, _ in steps)
    assert "teacher" in caplog.text
    report = kdcli.evaluate([run.student], data=recipe["data"]["dataset"], label="intent")
    assert report.metrics[next(iter(report.metrics))]["test"]["accuracy"] >= 0
    assert capfd.readouterr() == ("", "")


def test_from_command_to_training_there_are_six_frames(recipe, tmp_path, monkeypatch):
    frames = []

    def train(self, *args, **kwargs):
        frames[:] = [f for f in traceback.extract_stack() if "/kdcli/" in f.filename]
        raise RecipeError("stop here")

    teacher = tmp_path / "teacher"
    kdcli.fine_tune_teacher(recipe, output=teacher)
    changed = recipe | {"teacher": {"model": str(teacher / "teacher")}}
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(Recipe.model_validate(changed)))
    monkeypatch.setattr(DistillationTrainer, "train", train)
    kd("distill", file, "-o", tmp_path / "run")
    names = [frame.name for frame in frames]
    names = names[names.index("distill") :]
    assert names == ["distill", "distill", "run_pipeline", "run_stage", "run", "train_model"]


def test_init_student_gives_a_model_or_a_folder(tiny_backbone, tmp_path, capfd):
    student = kdcli.init_student(tiny_backbone, drop_every=2)
    assert student.config.num_hidden_layers == 2
    folder = kdcli.init_student(tiny_backbone, keep_layers=[0], output=tmp_path / "student")
    assert (folder / "model.safetensors").is_file()
    assert capfd.readouterr() == ("", "")


def test_a_card_is_written_again(run):
    card = run.student / "README.md"
    before = card.read_text()
    card.unlink()
    assert kdcli.write_card(run.path) == card
    assert card.read_text() == before


@pytest.mark.parametrize(
    "overrides", [{"distill.epoch": 3}, {"distill.epochs": "many"}, {"nothing": 1}]
)
def test_a_wrong_override_is_an_error_that_names_its_key(recipe, overrides):
    with pytest.raises(kdcli.KdError, match=next(iter(overrides))):
        kdcli.distill(recipe, overrides=overrides)


def test_a_missing_recipe_is_an_error():
    with pytest.raises(kdcli.KdError, match="nowhere"):
        kdcli.distill("nowhere.yaml")


def test_import_is_light_and_all_names_resolve():
    code = "import sys, kdcli; print({'torch', 'pydantic', 'numpy'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.strip() == "set()"
    assert all(getattr(kdcli, name) for name in kdcli.__all__)
    assert kdcli.losses.__name__ == "kdcli.losses"
    with pytest.raises(AttributeError):
        kdcli.nothing  # noqa: B018


def test_a_dataset_in_memory_takes_the_place_of_the_recipes(recipe):
    data = Dataset.from_dict({"text": ["one", "two"], "intent": ["a", "b"]})
    loaded = resolve_recipe(recipe, data=data)
    assert Path(loaded.data.dataset).is_dir()
    assert resolve_recipe(recipe, {"data.dataset": data}) == loaded
