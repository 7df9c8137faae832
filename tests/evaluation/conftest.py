"""A small model that has really learnt, and its student, in the run that made them."""

import shutil

import pytest

from kdcli import pipeline
from kdcli.progress import Silent
from kdcli.recipe.load import shipped_folder
from kdcli.recipe.schema import Recipe

FIT = {"epochs": 3, "batch_size": 16, "learning_rate": 5e-4, "warmup": 0.1}


@pytest.fixture(scope="session")
def run(backbone, tmp_path_factory):
    """A finished run on the quick start's texts; not to be changed."""
    recipe = {
        "name": "tiny",
        "data": {"dataset": str(shipped_folder() / "quickstart"), "label": "intent"},
        "teacher": {"model": str(backbone), "fine_tune": FIT},
        "student": {"keep": [0]},
        "distill": {**FIT, "epochs": 2},
        "evaluate": {"out_of_scope": "out_of_scope", "latency_texts": 3},
    }
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    pipeline.execute(Recipe.model_validate(recipe), folder, Silent())
    return folder


@pytest.fixture
def own(run, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(run, tmp_path / "own")
