"""The notebooks of the documentation run from top to bottom."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def run_notebook(path, parameters):
    """Execute the code cells in order; `parameters` replace those of the cell tagged so."""
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            exec(compile(source, f"{path.name}, cell {number}", "exec"), namespace)
            if "parameters" in cell["metadata"].get("tags", ()):
                namespace |= parameters
    return namespace


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(notebook, small_data, tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = {
        "data.dataset": str(small_data),
        "teacher.model": str(tiny_backbone),
        "teacher.fine_tune.epochs": 1,
        "student": {"drop_every": 2},
        "distill.epochs": 1,
        "evaluate.latency_texts": 2,
        "evaluate.baselines": [],
    }
    namespace = run_notebook(notebook, {"overrides": overrides})
    assert (namespace["run"].student / "model.safetensors").is_file()
