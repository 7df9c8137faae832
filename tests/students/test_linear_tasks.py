"""Linear students of several labels and of scores, of a black box, and on unlabelled texts."""

import json

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_union
from sklearn.preprocessing import MultiLabelBinarizer

import kdcli
from kdcli.pipeline.run_estimate import estimate_run
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe

_WORDS = ("parcel", "refund", "password", "invoice", "delivery", "size")
_LABELS = ["parcel", "password", "refund"]


def write_dataset(folder, value):
    random = np.random.default_rng(0)
    folder.mkdir()
    for split, count in (("train", 120), ("validation", 40), ("test", 40)):
        drawn = [[*random.choice(_WORDS, 3)] for _ in range(count)]
        rows = [{"text": " ".join(words), "label": value(words)} for words in drawn]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def read_dataset(folder, split):
    rows = [*map(json.loads, (folder / f"{split}.jsonl").read_text().splitlines())]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def fit_student(folder, backbone, output, family="tfidf"):
    recipe = {
        "name": "linear",
        "data": {"dataset": str(folder)},
        "teacher": {"model": str(backbone), "fine_tune": {"epochs": 1, "batch_size": 32}},
        "student": {"family": family, "options": {"C": 10}},
        "evaluate": {"latency_texts": 2, "baselines": []},
        "distill": {
            "losses": [{"kind": "labels_mse" if "score" in folder.name else "cross_entropy"}]
        },
    }
    return kdcli.distill(recipe, output=output)


@pytest.fixture(scope="module")
def ngrams():
    return make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
    )


def test_several_labels_are_a_logistic_regression_each(tiny_backbone, ngrams, tmp_path):
    folder = write_dataset(tmp_path / "labels", lambda words: [w for w in _LABELS if w in words])
    run = fit_student(folder, tiny_backbone, tmp_path / "run")
    texts, labels = read_dataset(folder, "train")
    # The loss is a mean over labels too.
    plain = OneVsRestClassifier(LogisticRegression(C=10 / 3, max_iter=2000, tol=1e-8))
    plain.fit(
        ngrams.fit_transform(texts), MultiLabelBinarizer(classes=_LABELS).fit_transform(labels)
    )
    some, _ = read_dataset(folder, "test")
    classifier = kdcli.load(run.path)
    order = [classifier.labels.index(label) for label in _LABELS]
    expected = plain.decision_function(ngrams.transform(some))
    np.testing.assert_allclose(classifier.predict_logits(some)[:, order], expected, atol=5e-3)
    assert run.metrics["student"]["test"]["micro_f1"] > 0.9


@pytest.mark.parametrize("family", ["tfidf", "head"])
def test_scores_are_a_ridge_regression(family, tiny_backbone, ngrams, tmp_path):
    folder = write_dataset(tmp_path / "scores", lambda ws: 0.25 + sum(map(_WORDS.index, ws)) / 5)
    run = fit_student(folder, tiny_backbone, tmp_path / "run", family)
    some, scores = read_dataset(folder, "test")
    predicted = kdcli.load(run.path).predict_logits(some)[:, 0]
    errors = predicted - np.array(scores)
    assert run.metrics["student"]["test"]["mae"] == pytest.approx(np.abs(errors).mean(), abs=1e-5)
    if family == "tfidf":
        texts, targets = read_dataset(folder, "train")
        plain = Ridge(alpha=1 / 20).fit(ngrams.fit_transform(texts), targets)
        np.testing.assert_allclose(predicted, plain.predict(ngrams.transform(some)), atol=5e-3)


def test_black_box_teaches_a_student_without_tokens(small_data, tiny_backbone, tmp_path):
    recipe = {
        "name": "black-box",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"kind": "embeddings", "model": str(tiny_backbone)},
        "student": {"family": "tfidf", "options": {"C": 100}},
        "distill": {"losses": [{"kind": "soft_targets", "temperature": 1.0}]},
        "evaluate": {"latency_texts": 2, "baselines": [], "splits": ["train"]},
    }
    estimate = estimate_run(Recipe.model_validate(recipe), SilentReporter())
    run = kdcli.distill(recipe, output=tmp_path / "run")
    assert run.metrics["student"]["train"]["agreement"] > 0.9
    assert estimate["distill"]["parameters"] == run.results["distill"]["parameters"]


def test_unlabelled_texts_and_baseline(small_data, tiny_teacher, tmp_path):
    (tmp_path / "more.csv").write_text("text\nwhere is my parcel\nrefund me\nsomething else\n" * 3)
    recipe = {
        "name": "unlabelled",
        "data": {
            "dataset": str(small_data),
            "label": "intent",
            "unlabeled": str(tmp_path / "more.csv"),
        },
        "teacher": {"model": str(tiny_teacher)},
        "student": {"family": "tfidf", "options": {"C": 10}},
        "baseline": True,
        "evaluate": {"latency_texts": 2, "baselines": []},
    }
    run = kdcli.distill(recipe, output=tmp_path / "run")
    assert {"student", "control", "baseline"} <= run.metrics.keys()
    without, with_texts = (
        run.results[stage]["history"][0]["training_loss"] for stage in ("control", "distill")
    )
    assert without != with_texts
