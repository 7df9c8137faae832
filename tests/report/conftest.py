"""A real run, of data that would be HTML."""

import pandas as pd
import pytest

from kdcli.pipeline import runner
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe

EVIL = "<script>alert(1)</script>"
FIT = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-3}


@pytest.fixture(scope="session")
def run(tiny_backbone, small_data, make_once):
    """Its folder."""
    return make_once("report", lambda folder: _run(tiny_backbone, small_data, folder)) / "run"


def _run(tiny_backbone, small_data, folder):
    (folder / "texts").mkdir()
    for file in small_data.glob("*.csv"):
        frame = pd.read_csv(file)
        frame["intent"] = frame["intent"].replace("track_order", EVIL)
        frame["text"] += " <img src=x onerror=alert(2)> $\\frac{1}$ & \u202eback"
        frame.to_csv(folder / "texts" / file.name, index=False)
    recipe = Recipe.model_validate({
        "name": "evil",
        "data": {"dataset": str(folder / "texts"), "label": "intent"},
        "teacher": {"model": str(tiny_backbone), "fine_tune": FIT},
        # One that hardly learns parts from its teacher on most texts.
        "student": {"model": str(tiny_backbone)},
        "distill": {**FIT, "epochs": 3, "learning_rate": 1e-6},
        "evaluate": {"out_of_scope": "out_of_scope", "latency_texts": 3},
    })  # fmt: skip
    runner.run_pipeline(recipe, folder / "run", SilentReporter())
