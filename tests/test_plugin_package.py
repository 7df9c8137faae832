"""An outside package offers one class for each entry-point group; one recipe uses them all."""

import shutil
import sys
from pathlib import Path

import pytest

import kdcli
from kdcli.pipeline.finished_run import load_run_recipe
from kdcli.pipeline.planning import plan_stages
from kdcli.pipeline.run_folder import RunFolder
from kdcli.recipe.schema import Recipe
from kdcli.stages import all_stages

PACKAGE = Path(__file__).parent / "plugin_package"
TOPICS = ("parcel", "refund", "password")


@pytest.fixture
def installed_plugin(tmp_path, monkeypatch):
    """Install the package as pip would, without the network: its module and its metadata."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    site = tmp_path / "site"
    metadata = site / f"kd_example_plugin-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    shutil.copytree(PACKAGE / "kd_example_plugin", site / "kd_example_plugin")
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    (metadata / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{kind} = {value}\n" for kind, value in kinds.items())
            for group, kinds in project["entry-points"].items()
        )
    )
    monkeypatch.syspath_prepend(site)
    all_stages.cache_clear()
    yield site
    all_stages.cache_clear()
    for module in [name for name in sys.modules if name.startswith("kd_example_plugin")]:
        del sys.modules[module]


@pytest.fixture
def pipe_files(tmp_path):
    """A folder with a file for each split, in the format that the package reads."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, rows in (("train", 48), ("validation", 12)):
        lines = (f"{TOPICS[i % 3]}|where is my {TOPICS[i % 3]} {split} {i}" for i in range(rows))
        (folder / f"{split}.pipe").write_text("\n".join(lines) + "\n")
    return folder


def test_loss_of_another_package_is_found_by_its_kind(installed_plugin):
    recipe = Recipe.model_validate({
        "name": "plugins",
        "data": {"dataset": "texts.csv"},
        "teacher": {"model": "owner/teacher"},
        "student": {"drop_every": 2},
        "distill": {"losses": [{"kind": "cosine_logits", "weight": 0.5}]},
    })  # fmt: skip
    assert type(recipe.distill.losses[0]).__name__ == "CosineLogits"
    assert recipe.model_dump(mode="json")["distill"]["losses"][0]["kind"] == "cosine_logits"


def test_recipe_uses_every_kind_of_plugin_of_another_package(
    installed_plugin, pipe_files, tmp_path
):
    recipe = {
        "name": "plugins",
        "data": {"dataset": str(pipe_files)},
        "teacher": {"kind": "keywords"},
        "student": {"family": "word_bert", "options": {"width": 32}},
        "distill": {
            "batch_size": 16,
            "learning_rate": 1e-2,
            "epochs": 30,
            "losses": [{"kind": "cosine_logits"}],
        },
        "evaluate": {"latency_texts": 2, "baselines": []},
    }
    run = kdcli.distill(recipe, output=tmp_path / "run")
    accuracy = run.metrics["student"]["validation"]["accuracy"]
    assert accuracy > 0.9
    assert run.results["badge"] == {"accuracy": accuracy}
    assert (run.path / "badge.json").is_file()
    assert "word_bert" in run.results["student"]["origin"]

    # A plug-in that was changed trains again; what comes before it is reused.
    loss_file = installed_plugin / "kd_example_plugin" / "losses.py"
    loss_file.write_text(loss_file.read_text() + "\n# changed\n")
    plans = plan_stages(load_run_recipe(run.path), RunFolder.open(run.path))
    planned = {plan.stage.name: plan.reason for plan in plans}
    assert "kd_example_plugin.losses" in planned["distill"]
    assert {planned[stage] for stage in ("teacher", "student", "outputs")} == {None}
