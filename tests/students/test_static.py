"""Static students: distilled, trained, saved for model2vec, run without PyTorch."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import load_dataset
from safetensors.numpy import load_file
from tokenizers.processors import Sequence
from transformers import PreTrainedTokenizerFast

import kdcli
from kdcli.errors import ModelError, RecipeError, UsageError
from kdcli.models.static_model import StaticConfig, StaticForSequenceClassification
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe
from kdcli.static_runtime import StaticClassifier, quantize_vectors
from kdcli.students.static_folder import write_static_student

pytest.importorskip("model2vec")
pytest.importorskip("skeletoken")


@pytest.fixture(scope="module")
def recipe(small_data, tiny_teacher):
    return {
        "name": "static",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_teacher)},
        "student": {"family": "static", "options": {"width": 8, "head_width": 16}},
        "distill": {"epochs": 10, "batch_size": 32, "learning_rate": 1e-2},
        "evaluate": {"latency_texts": 2, "baselines": []},
    }


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    return kdcli.distill(recipe, output=tmp_path_factory.mktemp("static") / "run")


def test_run_evaluates_the_student_as_it_is_deployed(run, small_data, labels):
    student = run.path / "student"
    classifier = kdcli.load(run.path)
    assert isinstance(classifier, StaticClassifier)
    assert {*classifier.labels} == {*labels}
    test = load_dataset(str(small_data), split="test")
    texts, gold = test["text"], test["intent"]
    right = [p.label == label for p, label in zip(classifier.predict(texts), gold, strict=True)]
    measured = run.metrics["student"]["test"]["accuracy"]
    assert measured == pytest.approx(np.mean(right))
    model = next(m for m in run.results["evaluate"]["models"] if m["name"] == "student")
    weights = [student / "model.safetensors", student / "head.safetensors"]
    assert model["megabytes"] == pytest.approx(sum(f.stat().st_size for f in weights) / 1e6)
    tensors = load_file(weights[0]) | load_file(weights[1])
    assert model["parameters"] == sum(t.size for name, t in tensors.items() if name != "scale")
    card = (student / "README.md").read_text(encoding="utf-8")
    assert "library_name: model2vec" in card and "kdcli.load" in card and "pipeline(" not in card
    assert "width 8" in card and (student / "kd.json").is_file()


def test_model2vec_loads_the_student(run, help_desk):
    from model2vec import StaticModel

    texts = help_desk["test"]["text"][:20]
    classifier, plain = kdcli.load(run.path), StaticModel.from_pretrained(run.path / "student")
    np.testing.assert_allclose(classifier.embed(texts), plain.encode(texts), atol=1e-6)
    head = load_file(run.path / "student" / "head.safetensors")
    hidden = np.maximum(plain.encode(texts) @ head["hidden.weight"] + head["hidden.bias"], 0)
    expected = hidden @ head["classifier.weight"] + head["classifier.bias"]
    np.testing.assert_allclose(classifier.predict_logits(texts), expected, atol=1e-4)


def test_answer_does_not_depend_on_the_other_texts(run, help_desk):
    texts = [*help_desk["test"]["text"][:20], "", "x" * 3000]
    classifier = kdcli.load(run.path)
    alone = np.concatenate([classifier.predict_logits([text]) for text in texts])
    np.testing.assert_allclose(classifier.predict_logits(texts), alone, atol=1e-5)


def test_student_needs_no_pytorch(run):
    code = (
        "import sys, kdcli; kdcli.load(sys.argv[1]).predict(['hello']); "
        "assert not {'torch', 'transformers', 'datasets', 'model2vec'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, run.path], check=True)


def test_finished_run_is_evaluated_beside_other_models(run, tiny_teacher):
    report = kdcli.evaluate([str(run.path / "student"), str(tiny_teacher)])
    assert {"student"} < {model["name"] for model in report.evaluation["models"]}


def test_torch_model_equals_the_mean_of_the_vectors():
    torch.manual_seed(0)
    config = StaticConfig(vocab_size=9, hidden_size=4, head_width=0, unk_token_id=1, num_labels=3)
    model = StaticForSequenceClassification(config).eval()
    ids = torch.tensor([[2, 1, 5, 0], [3, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    table = model.embeddings.weight
    expected = model.classifier(torch.stack([(table[2] + table[5]) / 2, table[3]]))
    torch.testing.assert_close(model(ids, mask).logits, expected)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("head_width", [0, 6])
def test_runtime_equals_torch(normalize, head_width, tokenizer, tmp_path):
    torch.manual_seed(0)
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.post_processor = Sequence([])
    plain = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=tokenizer.pad_token, unk_token=tokenizer.unk_token
    )
    config = StaticConfig(
        vocab_size=len(plain),
        hidden_size=4,
        head_width=head_width,
        normalize=normalize,
        pad_token_id=plain.pad_token_id,
        unk_token_id=plain.unk_token_id,
        num_labels=3,
    )
    model = StaticForSequenceClassification(config).eval()
    write_static_student(model, plain, tmp_path / "student", "float32")
    classifier = StaticClassifier(tmp_path / "student")
    for text in ("my order is late", "order", "\u4e00 late"):
        with torch.inference_mode():
            expected = model(**plain(text, return_tensors="pt")).logits
        np.testing.assert_allclose(classifier.predict_logits([text]), expected, atol=1e-5)


def test_int8_vectors_are_within_half_a_step():
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    quantized, scale = quantize_vectors(vectors, "int8")
    assert quantized.dtype == np.int8
    assert np.abs(quantized * scale - vectors).max() <= scale / 2 + 1e-6


def test_int8_run_and_trimmed_vocabulary(recipe, run, tmp_path, help_desk):
    options = {"width": 8, "dtype": "int8", "trim_vocab": 1}
    changed = {**recipe, "student": {"family": "static", "options": options}}
    small = kdcli.distill(changed, output=tmp_path / "run")
    vectors = load_file(small.path / "student" / "model.safetensors")["embeddings"]
    full = load_file(run.path / "student" / "model.safetensors")["embeddings"]
    assert vectors.dtype == np.int8 and len(vectors) <= len(full)
    assert kdcli.load(small.path).predict_logits(help_desk["test"]["text"]).std() > 0


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"data": {"truncation": "windows", "max_length": 16}}, "data.truncation"),
        ({"distill": {"losses": [{"kind": "hidden_mse"}]}}, "distill.losses"),
    ],
)
def test_recipe_that_does_not_suit_is_refused_before_work(recipe, change, key, tmp_path):
    changed = {**recipe, **{part: {**recipe[part], **keys} for part, keys in change.items()}}
    with pytest.raises(RecipeError, match=key):
        kdcli.distill(changed, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_export_is_refused(recipe):
    with pytest.raises(ValueError, match="export"):
        Recipe.model_validate({**recipe, "export": {}})


def test_training_defaults_are_the_familys(recipe):
    values = {key: value for key, value in recipe.items() if key != "distill"}
    assert Recipe.model_validate(values).distill.learning_rate == 1e-3
    chosen = Recipe.model_validate({**values, "distill": {"learning_rate": 0.5}})
    assert chosen.distill.learning_rate == 0.5


def test_damaged_folder_is_refused(run, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(run.path / "student", folder)
    (folder / "head.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError):
        kdcli.load(folder)
    config = json.loads((run.path / "student" / "config.json").read_text())
    assert config["model_type"] == "model2vec"
    with pytest.raises(UsageError):
        kdcli.load(run.path, runtime="torch")


def test_static_student_is_no_teacher(run, recipe, tmp_path):
    changed = {**recipe, "teacher": {"model": str(run.path / "student")}}
    with pytest.raises(ModelError):
        kdcli.distill(changed, reporter=SilentReporter(), output=tmp_path / "run")
