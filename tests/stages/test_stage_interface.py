"""Stages describe themselves: cache keys, plugins, and what planning imports."""

import subprocess
import sys

import pytest
from helpers import Listener

from kdcli import plugins, stages
from kdcli.errors import UsageError
from kdcli.pipeline import finished_run, planning, runner
from kdcli.pipeline.run_folder import RunFolder
from kdcli.pipeline.stage import Stage
from kdcli.recipe.schema import Recipe

FIT = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
BASE = {
    "name": "tiny",
    "seed": 3,
    "data": {"dataset": "d", "label": "intent"},
    "teacher": {"model": "t", "fine_tune": FIT},
    "student": {"keep_layers": [0, 3]},
    "distill": FIT,
}
RECIPES = {
    "plain": BASE,
    "all": {
        **BASE,
        "data": {"dataset": "d", "label": "intent", "unlabeled": "u"},
        "augment": {"model": "a", "mask": 0.2},
        "baseline": True,
        "teacher": {
            "model": "t",
            "fine_tune": FIT,
            "cross_fit_folds": 3,
            "temperature_scaling": True,
            "ensemble_with": [{"model": "o", "fine_tune": FIT}],
        },
        "student": {"hidden_size": 16, "num_attention_heads": 2, "keep_layers": [0, 3]},
    },
    "black box": {
        **BASE,
        "teacher": {"kind": "precomputed", "file": "f.csv"},
        "student": {"model": "s"},
    },
}
SOURCES = {
    "data": "D",
    "unlabelled": "U",
    "augment": "A",
    "teacher": "T",
    "student": "S",
    "teacher.also.0": "O",
}
# Cache keys of earlier versions: a change of these makes every user's runs start over.
KEYS = {
    "plain": {
        "teacher": "6e46062aef05f8da",
        "student": "1fdd166f4aaa068d",
        "outputs": "48a9c71dc7b9f8bd",
        "distill": "568ffa700a1bcc9a",
        "evaluate": "6ac545e4c67e4a03",
        "settings": "f90e45f47812394a",
        "page": "d6d30052a8a31811",
        "card": "d056c59c41e2fcfd",
    },
    "all": {
        "teacher": "6e46062aef05f8da",
        "student": "fb3fbe388ed664a5",
        "transfer": "682b6080960f063a",
        "outputs": "b23b2343f7c6f7a5",
        "distill": "988f05ff308f849b",
        "control": "917dccebf2f0badb",
        "baseline": "cb4a87067a1582b0",
        "evaluate": "c8057b30f83a63e6",
        "settings": "5faa929a36ffffb4",
        "page": "93b3d0b827b0cbcd",
        "card": "6fc663e18b58fe42",
    },
    "black box": {
        "teacher": "16f68663524086f6",
        "student": "31703f7ca64626f0",
        "outputs": "dc68636d7e219fa6",
        "distill": "da81b16b87a172ce",
        "evaluate": "75aba6ef2336d585",
        "settings": "3a6c9714a9accb03",
        "page": "281146f3902f9319",
        "card": "ea49ef11b576385b",
    },
}


class ExportStage(Stage):
    """Add a file and a folder to the student, after the card."""

    name = "bundle"
    description = "export the student"
    artifact = "student/bundle"
    needs = ("distill", "card")
    recipe_parts = ("name",)

    def run(self, context):
        assert (context.artifacts["distill"] / "config.json").is_file()
        context.output.mkdir()
        (context.output / "model.txt").write_text(context.recipe.name)
        return {"files": 1}


@pytest.fixture
def with_plugins(monkeypatch):
    def install(*classes):
        found = {stage_class.name: stage_class for stage_class in classes}
        monkeypatch.setattr(plugins, "plugin_names", lambda group: sorted(found))
        monkeypatch.setattr(plugins, "load_plugin", lambda group, name, base: found[name])
        stages.all_stages.cache_clear()

    yield install
    monkeypatch.undo()
    stages.all_stages.cache_clear()


@pytest.mark.parametrize("name", RECIPES)
def test_cache_keys_of_built_in_stages_stay_the_same(name, tmp_path):
    def keys(recipe):
        run = RunFolder.open(tmp_path / "run")
        plans = planning.plan_stages(recipe, run, source_keys=SOURCES)
        return {plan.stage.name: plan.key for plan in plans}

    recipe = Recipe.model_validate(RECIPES[name])
    evaluate = recipe.evaluate.model_copy(update={"baselines": ()})
    assert keys(recipe.model_copy(update={"evaluate": evaluate})) == KEYS[name]
    # Baselines are measured, and train nothing again.
    new = {stage for stage, key in keys(recipe).items() if KEYS[name].get(stage) != key}
    assert new in (set(), {"baselines", "evaluate", "settings", "page", "card"})


def test_listing_the_stages_imports_no_heavy_library():
    code = """
import sys
import kdcli.stages
kdcli.stages.all_stages()
print({"torch", "transformers", "datasets"} & sys.modules.keys())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.strip() == "set()", ended


def test_a_stage_of_a_plugin_runs_after_the_card_and_is_cached_and_published(
    parts, tmp_path, with_plugins
):
    with_plugins(ExportStage)
    recipe, folder, listener = Recipe.model_validate(parts), tmp_path / "run", Listener()
    run = runner.run_pipeline(recipe, folder, listener)
    assert listener.started[-2:] == ["card", "bundle"]
    assert run.records["bundle"].result == {"files": 1}
    assert (folder / "student/bundle/model.txt").read_text() == "tiny"
    again = Listener()
    runner.run_pipeline(recipe, folder, again)
    assert again.started == []
    assert "bundle/model.txt" in finished_run.files_to_publish(folder)
    finished_run.rewrite_reports(folder, Listener())
    (folder / "student/bundle/model.txt").unlink()
    runner.run_pipeline(recipe, folder, again)
    assert again.started == ["bundle"]


@pytest.mark.parametrize(
    "attributes", [{"needs": ("nothing",)}, {"name": "card"}, {"artifact": "student"}]
)
def test_a_plugin_that_does_not_fit_is_refused(with_plugins, attributes):
    with_plugins(type("Odd", (ExportStage,), attributes))
    with pytest.raises(UsageError):
        stages.all_stages()


@pytest.fixture
def parts(tiny_backbone, small_data):
    return {
        **BASE,
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_backbone), "fine_tune": FIT},
        "evaluate": {"latency_texts": 1, "baselines": []},
    }
