"""An OpenVINO export answers as the model does, in every precision; run by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import kdcli
from kdcli.errors import ModelError
from kdcli.onnx_export import onnx_folder, openvino_files
from kdcli.runtime import Classifier

pytestmark = pytest.mark.slow
pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.fixture(scope="module")
def export(exported, small_data, tmp_path_factory):
    """Export the model in a precision; return the folder."""

    def run(precision):
        return kdcli.export(
            exported,
            tmp_path_factory.mktemp("openvino") / "model",
            format="openvino",
            precision=precision,
            max_drop=["accuracy=1"],
            data=small_data,
            label="intent",
        )

    return run


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "int8-weights"])
def test_a_text_has_one_answer_alone_and_in_a_batch(export, exported, help_desk, precision):
    folder = export(precision)
    note = json.loads((folder / "onnx/export.json").read_text())
    assert (note["format"], note["precision"], note["rejected"]) == ("openvino", precision, [])
    assert "openvino" in (folder / "requirements.txt").read_text()
    classifier = kdcli.load(folder)
    assert classifier.path.name == "openvino_model.xml"
    assert classifier.num_bytes == sum(
        file.stat().st_size for file in folder.glob("onnx/openvino_model.*")
    )
    texts = [*help_desk["test"]["text"][:24], "", "ok", "my parcel is late " * 40]
    batched = classifier.predict_logits(texts)
    alone = np.concatenate([classifier.predict_logits([text]) for text in texts])
    np.testing.assert_allclose(batched, alone, atol=1e-5)
    expected = Classifier(exported, file="model.onnx").predict_logits(texts)
    tolerance = {"float32": 1e-5, "float16": 2e-2}.get(precision, 0.35)
    assert np.abs(batched - expected).max() <= tolerance * np.abs(expected).max()


def test_evaluate_measures_the_export_beside_its_source(export, small_data):
    folder = export("int8-weights")
    report = kdcli.evaluate(folder, data=small_data, label="intent", splits=["test"])
    names = [model["name"] for model in report.evaluation["models"]]
    assert names == ["model", "model-openvino-int8-weights"]
    by_file = kdcli.evaluate(
        folder / "onnx/openvino_model.xml", data=small_data, label="intent", splits=["test"]
    )
    assert (
        next(iter(by_file.metrics.values()))["test"]["accuracy"]
        == (report.metrics[names[1]]["test"]["accuracy"])
    )


def test_a_file_that_answers_otherwise_is_refused(export, monkeypatch):
    right = onnx_folder._compare_with_pytorch

    def compare(model, batches, path):
        return right(model, batches, path) if path.suffix == ".onnx" else 0.5

    monkeypatch.setattr(onnx_folder, "_compare_with_pytorch", compare)
    with pytest.raises(ModelError, match="other logits"):
        export("float32")


def test_a_converter_that_fails_gives_way_to_a_safer_precision(export, monkeypatch):
    quantize = openvino_files._quantize

    def fail(graph, precision, rows):
        if precision == "int8":
            raise RuntimeError("no such operation")
        return quantize(graph, precision, rows)

    monkeypatch.setattr(openvino_files, "_quantize", fail)
    folder = export("int8")
    note = SimpleNamespace(**json.loads((folder / "onnx/export.json").read_text()))
    assert note.precision == "int8-weights"
    assert len(note.rejected) == 1
    assert (folder / "onnx/model.onnx").is_file()
