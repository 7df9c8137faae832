"""Several labels a text, and scores: from data to a student that learns what its teacher knows."""

import json

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

from kdcli.errors import RecipeError
from kdcli.evaluation.calibration import inference_config
from kdcli.pipeline import runner as runs
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe

WORDS = ("parcel", "refund", "password", "invoice", "delivery", "size")
FIT = {"batch_size": 16, "learning_rate": 3e-3}


def labels_of(words):
    return [word for word in ("parcel", "refund", "password") if word in words]


def score_of(words):
    return 0.25 + sum(WORDS.index(word) for word in words) / 5


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Words decide labels and scores; of the student's training texts most are labelled wrongly."""
    folder, random = tmp_path_factory.mktemp("tasks"), np.random.default_rng(0)
    for kind, value in (("labels", labels_of), ("score", score_of)):
        for which in ("true", "noisy"):
            (folder / kind / which).mkdir(parents=True)
            for split, count in (("train", 320), ("validation", 80), ("test", 80)):
                drawn = [[*random.choice(WORDS, 3)] for _ in range(count)]
                found = [value(words) for words in drawn]
                if which == "noisy" and split == "train":
                    found = [found[i] for i in random.permutation(count)]
                rows = [
                    {"text": " ".join(w), "label": v} for w, v in zip(drawn, found, strict=True)
                ]
                lines = "\n".join(map(json.dumps, rows))
                (folder / kind / which / f"{split}.jsonl").write_text(lines)
    return folder


def run(kind, texts, backbone, place, until):
    """A teacher of true labels, and its student and baseline on wrong ones."""
    teacher = {"model": str(backbone), "fine_tune": {**FIT, "epochs": 8}}
    data = {"dataset": str(texts / kind / "true")}
    made = Recipe.model_validate({"name": "teacher", "data": data, "teacher": teacher})
    runs.run_pipeline(made, place / "teacher", SilentReporter(), "teacher")
    recipe = Recipe.model_validate({
        "name": "student",
        "data": {"dataset": str(texts / kind / "noisy")},
        "teacher": {"model": str(place / "teacher/teacher")},
        "student": {"keep_layers": [0, 2]},
        "distill": {**FIT, "epochs": 6},
        "baseline": True,
        "evaluate": {"latency_texts": 2, "baselines": [], "thresholds": "per_label"},
    })  # fmt: skip
    return runs.run_pipeline(recipe, place / "run", SilentReporter(), until)


def test_of_several_labels_the_student_learns_the_teacher_s(texts, tiny_backbone, tmp_path):
    made = run("labels", texts, tiny_backbone, tmp_path, None)
    found = json.loads((made.path / "evaluation.json").read_text())
    assert found["task"] == "multi_label_classification"
    figures = {model["name"]: model["splits"]["test"] for model in found["models"]}
    assert figures["student"]["agreement"] > figures["baseline"]["agreement"] + 0.1
    assert figures["student"]["micro_f1"] > 0.7
    student = made.path / "student"
    assert AutoConfig.from_pretrained(student).problem_type == "multi_label_classification"
    assert set(inference_config.load_calibration(student).thresholds) == {
        "parcel",
        "refund",
        "password",
    }
    (scores,) = pipeline("text-classification", str(student), top_k=None)("parcel size refund")
    assert sum(one["score"] for one in scores) > 1.01, "each label has a probability of its own"
    assert {one["label"] for one in scores[:2]} == {"parcel", "refund"}
    card = (student / "README.md").read_text()
    assert "Micro F1" in card
    assert "Accuracy" not in card


def test_of_scores_likewise(texts, tiny_backbone, tmp_path):
    made = run("score", texts, tiny_backbone, tmp_path, "evaluate")
    found = json.loads((made.path / "evaluation.json").read_text())
    figures = {model["name"]: model["splits"]["test"] for model in found["models"]}
    unlike = {name: 1 - figures[name]["fidelity_pearson"] for name in ("student", "baseline")}
    assert unlike["student"] < unlike["baseline"] / 2
    assert figures["student"]["spearman"] > 0.7
    (one,) = pipeline("text-classification", str(made.path / "student"))("size size delivery")
    assert one["score"] > 1.5, "a score, and no probability"


@pytest.mark.parametrize(
    ("labels", "known"),
    [
        ([["often"]] * 57 + [["often", "rare"]] * 3 + [[]] * 4, [60 / 64, 3 / 64]),
        ([1.5] * 32 + [4.5] * 32, [3.0]),
    ],
)
def test_a_new_head_starts_from_what_the_labels_say_on_the_whole(
    labels, known, tiny_backbone, tmp_path
):
    rows = [{"text": f"parcel {i}", "label": label} for i, label in enumerate(labels)]
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        (tmp_path / f"data/{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    barely = {"learning_rate": 1e-9, "epochs": 1}
    recipe = Recipe.model_validate({
        "name": "start",
        "data": {"dataset": str(tmp_path / "data")},
        "teacher": {"model": str(tiny_backbone), "fine_tune": barely},
        "student": {"model": str(tiny_backbone)},
        "distill": barely,
    })  # fmt: skip
    made = runs.run_pipeline(recipe, tmp_path / "run", SilentReporter(), "distill")
    for name in ("teacher", "student"):
        model = AutoModelForSequenceClassification.from_pretrained(made.path / name)
        said = model.classifier.bias.detach()
        found = said if len(known) == 1 else said.sigmoid()
        assert found.tolist() == pytest.approx(known, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "loss", "says"),
    [
        ("labels", {"kind": "decoupled_kd"}, "decoupled_kd is not for multi_label_classification"),
        ("labels", {"kind": "soft_targets", "standardize_logits": True}, "standardize_logits"),
        ("score", {"kind": "cross_entropy"}, "a score has none"),
    ],
)
def test_a_loss_that_means_nothing_for_the_task_is_refused(
    texts, tiny_backbone, tmp_path, kind, loss, says
):
    recipe = Recipe.model_validate({
        "name": "x",
        "data": {"dataset": str(texts / kind / "true")},
        "teacher": {"model": str(tiny_backbone), "fine_tune": FIT},
        "distill": {"losses": [loss]},
    })  # fmt: skip
    with pytest.raises(RecipeError, match=says):
        runs.run_pipeline(recipe, tmp_path / "run", SilentReporter())
    assert not (tmp_path / "run").exists()
