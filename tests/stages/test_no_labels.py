"""Texts without labels and a teacher: the student learns, and its agreement is what is measured."""

import json

import numpy as np
import pytest
import yaml
from transformers import pipeline

from kdcli.api.data_check import check_data
from kdcli.api.evaluation import evaluate_models
from kdcli.errors import DataError, KdError, ModelError, RecipeError
from kdcli.models import model_io
from kdcli.pipeline import runner as runs
from kdcli.progress import SilentReporter
from kdcli.recipe.loading import dump_recipe, load_recipe, recipe_for_trial
from kdcli.recipe.schema import Recipe

WORDS = ("parcel", "refund", "password")
OTHERS = ("size", "invoice", "delivery", "order", "account")
FIT = {"batch_size": 16, "learning_rate": 3e-3}
KNOWS = {
    "single_label_classification": lambda words: next(w for w in words if w in WORDS),
    "multi_label_classification": lambda words: [w for w in WORDS if w in words],
    "regression": lambda words: 0.25 + sum((*WORDS, *OTHERS).index(w) for w in words) / 5,
}


def rows(count, random):
    return [
        random.permutation([*random.choice(OTHERS, 2), WORDS[i % 3]]).tolist() for i in range(count)
    ]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """For each task texts with labels, to make a teacher of; and others without any."""
    folder, random = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    for split, count in (("train", 320), ("validation", 80), ("test", 80)):
        for task, knows in KNOWS.items():
            (folder / task).mkdir(exist_ok=True)
            found = [{"text": " ".join(w), "label": knows(w)} for w in rows(count, random)]
            (folder / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, found)))
        (folder / "bare").mkdir(exist_ok=True)
        found = [{"text": " ".join(words)} for words in rows(count, random)]
        (folder / "bare" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, found)))
    return folder


@pytest.fixture(scope="module")
def teachers(texts, tiny_backbone, tmp_path_factory):
    """Finished classifiers, one a task."""
    place = tmp_path_factory.mktemp("teachers")
    for task in KNOWS:
        recipe = Recipe.model_validate({
            "name": "teacher",
            "data": {"dataset": str(texts / task)},
            "teacher": {"model": str(tiny_backbone), "fine_tune": {**FIT, "epochs": 5}},
        })  # fmt: skip
        runs.run_pipeline(recipe, place / task, SilentReporter(), "teacher")
    return {task: place / task / "teacher" for task in KNOWS}


@pytest.fixture(scope="module")
def recipe_of(texts, tiny_backbone):
    def recipe(teacher, **more):
        return Recipe.model_validate({
            "name": "bare",
            "data": {"dataset": str(texts / "bare"), "label": None},
            "teacher": teacher,
            "student": {"model": str(tiny_backbone)},
            "distill": {**FIT, "epochs": 6},
            "evaluate": {"latency_texts": 2, "baselines": []},
            **more,
        })  # fmt: skip

    return recipe


def measured(recipe, folder):
    return runs.run_pipeline(recipe, folder / "run", SilentReporter(), "evaluate")


def figures_of(made):
    found = json.loads((made.path / "evaluation.json").read_text())
    assert found["labels_from"] == "teacher"
    return {model["name"]: model["splits"]["test"] for model in found["models"]}


@pytest.fixture(scope="module")
def made(teachers, recipe_of, tmp_path_factory):
    teacher = {"model": str(teachers["single_label_classification"])}
    recipe = recipe_of(teacher, student={"keep_layers": [0, 2]})
    return runs.run_pipeline(recipe, tmp_path_factory.mktemp("bare") / "run", SilentReporter())


def test_the_student_learns_what_the_teacher_knows(made, texts):
    figures = figures_of(made)
    assert figures["teacher"]["accuracy"] == 1
    assert figures["student"]["accuracy"] == figures["student"]["agreement"] > 0.9
    test = [json.loads(line)["text"] for line in (texts / "bare/test.jsonl").open()]
    given = pipeline("text-classification", str(made.path / "student"))(test)
    right = [
        one["label"] == KNOWS["single_label_classification"](text.split())
        for one, text in zip(given, test, strict=True)
    ]
    assert np.mean(right) > 0.9, "of the labels that nobody wrote down"


def test_no_accuracy_is_claimed(made):
    _, metadata, text = (made.path / "student/README.md").read_text().split("---\n", 2)
    assert "metrics" not in yaml.safe_load(metadata)
    assert "results" not in str(yaml.safe_load(metadata).get("model-index"))
    remark = "predictions are used as labels"
    assert remark in text
    assert "- Accuracy (teacher's predictions as labels): " in text
    assert "- Accuracy: " not in text
    assert remark in (made.path / "report.html").read_text()


def test_it_is_not_measured_again_by_labels_that_are_not_there(made):
    with pytest.raises(KdError, match="there are no labels to measure by"):
        evaluate_models([str(made.path)], [], SilentReporter())


@pytest.mark.parametrize("task", ["multi_label_classification", "regression"])
def test_of_several_labels_and_of_scores_likewise(texts, teachers, recipe_of, tmp_path, task):
    recipe = recipe_of({"model": str(teachers[task])}, student={"keep_layers": [0, 2]})
    figures = figures_of(measured(recipe, tmp_path))["student"]
    agreement = figures["agreement" if task.startswith("multi") else "fidelity_pearson"]
    assert agreement > 0.9


def test_validation_is_set_aside_at_random(texts, teachers, recipe_of, tmp_path):
    data = {"dataset": str(texts / "bare/train.jsonl"), "label": None}
    teacher = {"model": str(teachers["single_label_classification"])}
    made = runs.run_pipeline(
        recipe_of(teacher, data=data), tmp_path / "run", SilentReporter(), "outputs"
    )
    assert made.records["outputs"].result == {"rows": 320}


def test_scores_from_a_file_name_the_labels(texts, recipe_of, tmp_path):
    every = [json.loads(line)["text"] for f in (texts / "bare").iterdir() for line in f.open()]
    told = [{"text": text, **{w: 0.9 if w in text else 0.05 for w in WORDS}} for text in {*every}]
    (tmp_path / "scores.jsonl").write_text("\n".join(map(json.dumps, told)))
    learns = {**FIT, "epochs": 8, "losses": [{"kind": "soft_targets", "temperature": 1}]}
    scores = {"kind": "precomputed", "file": str(tmp_path / "scores.jsonl")}
    recipe = recipe_of(scores, distill=learns)
    figures = figures_of(measured(recipe, tmp_path))
    assert figures["student"]["agreement"] > 0.9
    assert {row["label"] for row in figures["student"]["classes"]} == {*WORDS}


@pytest.mark.parametrize(
    ("teacher", "more", "says"),
    [
        ({"model": "x", "fine_tune": {}}, {}, "teacher.fine_tune, which needs labels"),
        (
            {"model": "x", "temperature_scaling": True},
            {},
            "teacher.temperature_scaling, which needs labels",
        ),
        ({"model": "x"}, {"baseline": True}, "baseline, which needs labels"),
    ],
)
def test_what_needs_labels_is_refused(recipe_of, teacher, more, says):
    with pytest.raises(ValueError, match=says):
        recipe_of(teacher, **more)


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ({"kind": "embeddings", "model": "x"}, "kind embeddings needs the data"),
        ({"kind": "zero_shot", "model": "x"}, "fewer than two labels"),
        ({"kind": "precomputed", "file": "nowhere.csv"}, "there is no file nowhere.csv of scores"),
    ],
)
def test_a_teacher_without_labels_of_its_own_is_refused(recipe_of, tmp_path, teacher, says):
    with pytest.raises(KdError, match=says):
        runs.run_pipeline(recipe_of(teacher), tmp_path / "run", SilentReporter())
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_one_label_is_refused_before_anything_is_written(
    recipe_of, tiny_backbone, tokenizer, tmp_path
):
    model = model_io.load_classifier(
        tiny_backbone, ("only",), "single_label_classification", allow_new_head=True
    )
    model_io.save_model(model, tokenizer, tmp_path / "one")
    # By kd, or by the checks of transformers' own configuration.
    with pytest.raises((DataError, ModelError), match=r"one label only|num_labels > 1"):
        runs.run_pipeline(
            recipe_of({"model": str(tmp_path / "one")}), tmp_path / "run", SilentReporter()
        )
    assert not (tmp_path / "run").exists()


def test_a_recipe_is_read_as_it_was_written(teachers, recipe_of, tmp_path):
    recipe = recipe_of({"model": str(teachers["regression"])})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe
    with pytest.raises(RecipeError, match="label_separator, but no labels"):
        recipe_for_trial(recipe, {"data.label_separator": ";"})


def test_the_data_can_be_looked_at(texts, teachers, recipe_of):
    found = check_data(recipe_of({"model": str(teachers["regression"])}), SilentReporter())
    train = found["splits"]["train"]
    assert (train["rows"], train["unlabelled"]["texts"]) == (320, 0)
    assert train["labels"]["count"] == 0
    assert train["duplicates"] > 0
