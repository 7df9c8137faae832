"""`kdcli.load` finds a model's runtime, and labels texts the same in each."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

import kdcli
from kdcli.errors import ModelError, UsageError
from kdcli.models.torch_classifier import TorchClassifier
from kdcli.runtime import Classifier


def test_an_exported_model_runs_in_onnxruntime(exported, help_desk):
    classifier = kdcli.load(exported)
    assert isinstance(classifier, Classifier)
    assert classifier.path.name == "model_quantized.onnx"
    by_file = kdcli.load(exported / "onnx" / "model.onnx")
    torch_classifier = kdcli.load(exported, runtime="torch", device="cpu")
    assert isinstance(torch_classifier, TorchClassifier)
    texts = help_desk["test"]["text"][:40]
    np.testing.assert_allclose(
        by_file.predict_logits(texts), torch_classifier.predict_logits(texts), atol=2e-5
    )
    assert [p.label for p in by_file.predict(texts)] == [
        p.label for p in torch_classifier.predict(texts)
    ]


def test_a_model_that_is_not_exported_runs_in_pytorch(tiny_teacher, labels):
    classifier = kdcli.load(tiny_teacher, device="cpu")
    assert isinstance(classifier, TorchClassifier)
    prediction = classifier.predict(["my order is late"], top_k=3)[0]
    assert prediction.label == prediction.top[0][0]
    assert len(prediction.top) == 3
    assert {*classifier.labels} == {*labels}
    with pytest.raises(UsageError):
        kdcli.load(tiny_teacher, runtime="onnx")


def test_a_run_stands_for_its_student(exported, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(exported, run / "student")
    (run / "recipe.yaml").write_text("")
    assert kdcli.load(run).folder == run / "student"
    with pytest.raises(ModelError):
        kdcli.load(tmp_path / "nothing" / "here")


def test_an_exported_model_needs_no_pytorch(exported):
    code = (
        "import sys, kdcli; kdcli.load(sys.argv[1]).predict(['hello']); "
        "assert not {'torch', 'transformers', 'datasets'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, exported], check=True)
