"""TF-IDF students: fitted, saved, run without PyTorch, and equal to scikit-learn's own pipeline."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from datasets import load_dataset
from safetensors.numpy import load_file
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

import kdcli
from kdcli.errors import ModelError, RecipeError, UsageError
from kdcli.recipe.schema import Recipe
from kdcli.students.linear_fit import LinearFit
from kdcli.students.tfidf_folder import fit_features, write_features, write_tfidf_student
from kdcli.tfidf_runtime import TfidfClassifier

_LABELS_ONLY = {"losses": [{"kind": "cross_entropy"}]}


@pytest.fixture(scope="module")
def recipe(small_data, tiny_teacher):
    return {
        "name": "tfidf",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_teacher)},
        "student": {"family": "tfidf", "options": {"C": 10}},
        "evaluate": {"latency_texts": 2, "baselines": []},
    }


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    changed = {**recipe, "distill": _LABELS_ONLY}
    return kdcli.distill(changed, output=tmp_path_factory.mktemp("tfidf") / "run")


@pytest.fixture(scope="module")
def texts(small_data):
    splits = load_dataset(str(small_data))
    return {split: (rows["text"], np.array(rows["intent"])) for split, rows in splits.items()}


def test_student_on_labels_is_scikit_learns_pipeline(run, texts):
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
    )
    plain = make_pipeline(features, LogisticRegression(C=10, max_iter=2000, tol=1e-8))
    plain.fit(*texts["train"])
    classifier = kdcli.load(run.path)
    order = [classifier.labels.index(label) for label in plain.classes_]
    logits = classifier.predict_logits(texts["test"][0])[:, order]
    expected = plain.decision_function(texts["test"][0])
    expected -= expected.mean(1, keepdims=True)
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), expected, atol=5e-3)


def test_run_evaluates_the_student_as_it_is_deployed(run, texts):
    student = run.path / "student"
    classifier = kdcli.load(run.path)
    assert isinstance(classifier, TfidfClassifier)
    predicted = [prediction.label for prediction in classifier.predict(texts["test"][0])]
    right = np.mean([p == label for p, label in zip(predicted, texts["test"][1], strict=True)])
    assert run.metrics["student"]["test"]["accuracy"] == pytest.approx(right)
    model = next(m for m in run.results["evaluate"]["models"] if m["name"] == "student")
    tensors = load_file(student / "model.safetensors")
    assert model["parameters"] == sum(tensor.size for tensor in tensors.values())
    files = ("model.safetensors", "vocabulary.json")
    size = sum((student / name).stat().st_size for name in files)
    assert model["megabytes"] == pytest.approx(size / 1e6)
    card = (student / "README.md").read_text(encoding="utf-8")
    assert "kdcli.load" in card and "import pipeline" not in card and "num_epochs" not in card
    assert {path.suffix for path in student.iterdir()} <= {".json", ".safetensors", ".md"}


@pytest.mark.parametrize(
    "text",
    [
        "I can't find my ORDER, my order!",
        "a b",
        "",
        "   ",
        "\u4e00\u4e8c\u4e09",
        "I\u0307stanbul \u00df",
        "x" * 500,
        "tab\tand\nline  breaks",
    ],
)
def test_features_are_scikit_learns(text, tmp_path):
    train = [
        "i can't find my order",
        "my order is late",
        "a \u4e00\u4e8c\u4e09 tab and line",
        "a b",
    ]
    ngrams = {"word": (1, 3), "char_wb": (2, 4)}
    features = fit_features(train, ngrams, 1, 1000)
    plain = make_union(
        *(
            TfidfVectorizer(analyzer=kind, ngram_range=limits, sublinear_tf=True)
            for kind, limits in ngrams.items()
        )
    ).fit(train)
    expected = plain.transform([text]).toarray()[0]
    from kdcli.models.tfidf_model import TfidfConfig

    write_features(features, TfidfConfig(num_labels=2), tmp_path / "untrained")
    fit = LinearFit(np.eye(len(expected), 2, dtype=np.float32), np.zeros(2, np.float32), 1.0, 0)
    write_tfidf_student(features, fit, tmp_path / "untrained", tmp_path / "student", "float32")
    indices, values = TfidfClassifier(tmp_path / "student").features(text)
    dense = np.zeros(len(expected))
    dense[indices] = values
    np.testing.assert_allclose(dense, expected, atol=1e-6)
    np.testing.assert_allclose(features.transform([text]).toarray()[0], expected, atol=1e-6)


def test_answer_does_not_depend_on_the_other_texts(run, texts):
    some = [*texts["test"][0][:20], "", "x" * 3000]
    classifier = kdcli.load(run.path)
    alone = np.concatenate([classifier.predict_logits([text]) for text in some])
    np.testing.assert_array_equal(classifier.predict_logits(some), alone)


def test_student_needs_no_pytorch_and_no_scikit_learn(run):
    code = (
        "import sys, kdcli; kdcli.load(sys.argv[1]).predict(['hello']); "
        "assert not {'torch', 'transformers', 'datasets', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, run.path], check=True)


def test_soft_targets_move_the_student_towards_its_teacher(recipe, run, texts, tmp_path):
    losses = [{"kind": "soft_targets", "temperature": 1.0}]
    options = {"C": 100, "dtype": "float16"}
    changed = {**recipe, "distill": {"losses": losses}}
    changed["student"] = {"family": "tfidf", "options": options}
    soft = kdcli.distill(changed, output=tmp_path / "run")
    weights = load_file(soft.path / "student" / "model.safetensors")
    assert weights["weight"].dtype == np.float16
    teacher = kdcli.load(soft.path / "teacher").predict_logits(texts["train"][0])

    def divergence(path):
        classifier = kdcli.load(path)
        order = [classifier.labels.index(label) for label in kdcli.load(soft.path).labels]
        logits = classifier.predict_logits(texts["train"][0])[:, order]
        p, q = log_softmax(teacher, axis=1), log_softmax(logits, axis=1)
        return (np.exp(p) * (p - q)).sum(1).mean()

    assert divergence(soft.path) < divergence(run.path)


def test_finished_run_is_not_done_again(recipe, run):
    before = (run.path / "student" / "model.safetensors").stat().st_mtime_ns
    kdcli.distill({**recipe, "distill": _LABELS_ONLY}, output=run.path)
    assert (run.path / "student" / "model.safetensors").stat().st_mtime_ns == before


def test_finished_run_is_evaluated_beside_other_models(run, tiny_teacher):
    report = kdcli.evaluate([str(run.path / "student"), str(tiny_teacher)])
    assert {"student"} < {model["name"] for model in report.evaluation["models"]}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"data": {"max_length": 16}}, "data.max_length"),
        ({"data": {"truncation": "tail"}}, "data.truncation"),
        ({"distill": {"epochs": 3}}, "distill.epochs"),
        ({"distill": {"losses": [{"kind": "hidden_mse"}]}}, "distill.losses"),
        (
            {"distill": {"losses": [{"kind": "cross_entropy", "weight": {"start": 1, "end": 0}}]}},
            "distill.losses",
        ),
        ({"student": {"options": {"word_ngrams": 0, "char_ngrams": 0}}}, "student.options"),
        ({"student": {"options": {"min_df": 100_000}}}, "student.options.min_df|n-gram"),
    ],
)
def test_recipe_that_does_not_suit_is_refused_before_work(recipe, change, key, tmp_path):
    changed = {**recipe}
    for part, keys in change.items():
        changed[part] = {**recipe.get(part, {}), **keys}
    with pytest.raises(RecipeError, match=key):
        kdcli.distill(changed, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_export_is_refused(recipe):
    with pytest.raises(ValueError, match="export"):
        Recipe.model_validate({**recipe, "export": {}})


def test_damaged_folder_is_refused(run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run.path / "student", folder)
    vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    vocabulary["word"].pop()
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    with pytest.raises(ModelError):
        kdcli.load(folder)
    with pytest.raises(UsageError):
        kdcli.load(run.path, runtime="torch")
    with pytest.raises(UsageError):
        kdcli.load(run.path, max_length=8)
