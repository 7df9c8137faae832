"""Baselines without a teacher: their figures, and what is said where one is better."""

import csv
import json

import numpy as np
import pytest
from helpers import kd

import kdcli
from kdcli.evaluation.output.comparison_summary import comparison_remarks
from kdcli.pipeline.run_folder import RunFolder
from kdcli.pipeline.simple_baselines import read_baselines

FIT = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def rows(small_data):
    """Texts and labels of each split."""
    splits = {}
    for split in ("train", "validation", "test"):
        with (small_data / f"{split}.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        splits[split] = [row["text"] for row in table], [row["intent"] for row in table]
    return splits


@pytest.fixture(scope="module")
def recipe(tiny_backbone, small_data):
    return {
        "name": "baselines",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_backbone), "fine_tune": FIT},
        "student": {"drop_every": 2},
        "distill": FIT,
        "evaluate": {"latency_texts": 1, "out_of_scope": "out_of_scope"},
        "report_to": [],
    }


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines") / "run"
    return kdcli.distill(recipe, output=folder)


@pytest.fixture(scope="module")
def evaluation(run):
    return json.loads((run.path / "evaluation.json").read_text())


def test_tf_idf_is_that_of_scikit_learn(evaluation, rows):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]", max_features=50_000
    )
    characters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=30_000
    )
    model = make_pipeline(make_union(words, characters), LogisticRegression(C=10, max_iter=300))
    model.fit(*rows["train"])
    (found,) = [each for each in evaluation["baselines"] if each["name"] == "tfidf"]
    for split in ("validation", "test"):
        expected = model.score(*rows[split])
        assert found["splits"][split]["accuracy"] == pytest.approx(expected)
    assert found["training_texts"] == len(rows["train"][0])


def test_the_frozen_encoder_is_that_of_plain_transformers(evaluation, tiny_backbone, rows):
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(tiny_backbone) for kind in (AutoModel, AutoTokenizer))
    model.eval()

    def embed(texts):
        vectors = []
        with torch.inference_mode():
            for text in texts:
                encoding = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
                vectors.append(model(**encoding).last_hidden_state[0].mean(0).numpy())
        return np.stack([vector / np.linalg.norm(vector) for vector in vectors])

    features = {split: embed(texts) for split, (texts, _) in rows.items()}
    heads = [
        LogisticRegression(C=c, max_iter=1000).fit(features["train"], rows["train"][1])
        for c in (1, 10, 100)
    ]
    losses = [
        log_loss(rows["validation"][1], head.predict_proba(features["validation"]))
        for head in heads
    ]
    best = heads[int(np.argmin(losses))]
    (found,) = [each for each in evaluation["baselines"] if each["name"] == "frozen_encoder"]
    for split in ("validation", "test"):
        expected = best.score(features[split], rows[split][1])
        assert found["splits"][split]["accuracy"] == pytest.approx(expected)


def test_baselines_are_apart_from_the_models(evaluation):
    assert {each["name"] for each in evaluation["baselines"]} == {"tfidf", "frozen_encoder"}
    assert [model["name"] for model in evaluation["models"]] == ["teacher", "student"]
    for model in evaluation["models"]:
        for metrics in model["splits"].values():
            assert not {"tfidf", "frozen_encoder"} & metrics["against"].keys()
    for baseline in evaluation["baselines"]:
        assert {*baseline["splits"]["test"]["against"]} == {"teacher", "student"}
        assert "accuracy_at_threshold" in baseline["splits"]["test"]


def test_a_teacher_that_a_baseline_beats_is_named_with_the_way_out(evaluation, run):
    # A backbone without knowledge, trained for one epoch, is worse than n-grams.
    remarks = "\n".join(comparison_remarks(evaluation))
    assert "validation: this baseline is better than the teacher" in remarks
    card = (run.student / "README.md").read_text()
    assert "TF-IDF" in card
    assert "TF-IDF" in (run.path / "report.html").read_text()


def test_a_baseline_that_is_no_better_is_not_recommended(evaluation):
    weak = json.loads(json.dumps(evaluation))
    for baseline in weak["baselines"]:
        for metrics in baseline["splits"].values():
            for pair in metrics["against"].values():
                pair["differences"]["accuracy"]["value"] = -0.1
    assert "better than" not in "\n".join(comparison_remarks(weak))
    for baseline in weak["baselines"]:
        for metrics in baseline["splits"].values():
            for pair in metrics["against"].values():
                pair["differences"]["accuracy"] |= {"value": 0.1, "noise": True}
    assert "better than" not in "\n".join(comparison_remarks(weak))


def test_the_same_run_fits_nothing_again(run, recipe):
    before = RunFolder.open(run.path).records["baselines"]
    again = kdcli.distill(recipe, output=run.path)
    assert RunFolder.open(again.path).records["baselines"].key == before.key


def test_none_are_fitted_where_the_recipe_asks_for_none(recipe, tmp_path):
    overrides = {"evaluate.baselines": []}
    run = kdcli.distill(recipe, output=tmp_path / "run", overrides=overrides)
    assert not (run.path / "baselines").exists()
    assert json.loads((run.path / "evaluation.json").read_text())["baselines"] == []


@pytest.mark.parametrize("task", ["multi_label", "regression", "pairs", "two_labels"])
def test_tf_idf_serves_other_tasks(task, tiny_backbone, tmp_path):
    labels = {
        "multi_label": lambda i: [name for name, every in (("a", 2), ("b", 3)) if i % every == 0],
        "regression": lambda i: i % 7 / 2,
        "pairs": lambda i: "abc"[i % 3],
        "two_labels": lambda i: "ab"[i % 2],
    }[task]
    data_folder = tmp_path / "data"
    data_folder.mkdir()
    for split, count in (("train", 60), ("validation", 24), ("test", 24)):
        with (data_folder / f"{split}.jsonl").open("w") as file:
            for i in range(count):
                row = {"text": f"word{i % 2} part{i % 3} rest{i % 7}", "label": labels(i)}
                if task == "pairs":
                    row["other"] = f"second{i % 5}"
                file.write(json.dumps(row) + "\n")
    data = {"dataset": str(data_folder), "label": "label"}
    if task == "pairs":
        data["text"] = ["text", "other"]
    recipe = {
        "name": "tiny",
        "data": data,
        "teacher": {"model": str(tiny_backbone), "fine_tune": FIT},
        "student": {"drop_every": 2},
        "distill": FIT,
        "evaluate": {"latency_texts": 1},
        "report_to": [],
    }
    run = kdcli.distill(recipe, output=tmp_path / "run")
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    (tfidf,) = [each for each in evaluation["baselines"] if each["name"] == "tfidf"]
    metric = {"multi_label": "micro_f1", "regression": "spearman"}.get(task, "accuracy")
    assert tfidf["splits"]["test"][metric] > 0.95
    frozen = [each for each in evaluation["baselines"] if each["name"] == "frozen_encoder"]
    assert bool(frozen) == (task in ("pairs", "two_labels"))
    logits = read_baselines(run.path / "baselines")["tfidf"]["test"]
    assert np.isfinite(logits).all()


def test_an_unknown_baseline_is_refused(recipe, tmp_path):
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    done = kd("distill", tmp_path / "recipe.yaml", "--set", "evaluate.baselines=[fasttext]")
    assert done.exit_code == 2
    assert "evaluate.baselines" in done.stderr
