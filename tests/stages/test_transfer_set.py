"""Texts that the teacher alone labels: what they bring, and what is refused."""

import json

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from transformers import BertForMaskedLM

from kdcli.errors import KdError
from kdcli.pipeline import runner
from kdcli.pipeline.planning import plan_stages
from kdcli.pipeline.run_folder import RunFolder
from kdcli.progress import SilentReporter
from kdcli.recipe.loading import recipe_for_trial
from kdcli.recipe.schema import Recipe

WORDS = ("parcel", "refund", "password")
OTHERS = ("size", "invoice", "delivery", "order", "account")


def lines(path, random, count, labelled=True):
    rows = [
        (" ".join(random.permutation([*random.choice(OTHERS, 3), WORDS[i % 3]]).tolist()), i % 3)
        for i in range(count)
    ]
    found = [{"text": t} | ({"label": WORDS[i]} if labelled else {}) for t, i in rows]
    path.write_text("\n".join(map(json.dumps, found)))
    return [row["text"] for row in found]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Few texts with labels, many without, and a teacher that was trained on many."""
    folder, random = tmp_path_factory.mktemp("transfer"), np.random.default_rng(0)
    for name, count in (("few", 9), ("many", 300)):
        (folder / name).mkdir()
        lines(folder / name / "train.jsonl", random, count)
        lines(folder / name / "validation.jsonl", random, 60)
    test = lines(folder / "few/test.jsonl", random, 60)
    lines(folder / "texts.jsonl", random, 240, labelled=False)
    with (folder / "texts.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"text": f"{test[0].upper()}!"}))
    return folder


@pytest.fixture(scope="module")
def teacher(data, tiny_backbone, tmp_path_factory):
    place = tmp_path_factory.mktemp("teaching")
    fit = {"batch_size": 16, "learning_rate": 3e-3, "epochs": 5}
    recipe = Recipe.model_validate({
        "name": "teacher",
        "data": {"dataset": str(data / "many")},
        "teacher": {"model": str(tiny_backbone), "fine_tune": fit},
    })  # fmt: skip
    runner.run_pipeline(recipe, place / "run", SilentReporter(), "teacher")
    return place / "run/teacher"


@pytest.fixture(scope="module")
def recipe(data, teacher):
    return Recipe.model_validate({
        "name": "transfer",
        "data": {"dataset": str(data / "few"), "unlabeled": str(data / "texts.jsonl")},
        "teacher": {"model": str(teacher)},
        "student": {"keep_layers": [0, 2], "hidden_size": 32},
        "distill": {"batch_size": 16, "learning_rate": 3e-3, "epochs": 8},
        "baseline": True,
        "evaluate": {"latency_texts": 2, "baselines": []},
    })  # fmt: skip


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    return runner.run_pipeline(
        recipe, tmp_path_factory.mktemp("transfer") / "run", SilentReporter()
    )


def test_they_bring_what_few_labels_do_not(run):
    models = json.loads((run.path / "evaluation.json").read_text())["models"]
    assert [m["name"] for m in models] == ["teacher", "student", "control", "baseline"]
    accuracy = {m["name"]: m["splits"]["test"]["accuracy"] for m in models}
    assert accuracy["teacher"] > 0.9
    assert accuracy["student"] > 0.9
    assert max(accuracy["control"], accuracy["baseline"]) < accuracy["student"] - 0.1


def test_what_is_measured_is_not_among_them(run, data):
    found = set(load_from_disk(str(run.path / "transfer-set"))["text"])
    every = {json.loads(line)["text"] for line in (data / "texts.jsonl").read_text().splitlines()}
    told = run.records["transfer"].result
    assert found < every
    assert told["unlabelled"] == len(found)
    assert told["augmented"] == 0
    assert told["unlabelled"] + told["left_out"] == 241
    assert not any(text.endswith("!") for text in found)


def test_those_without_them_take_as_many_steps(run):
    steps = {
        stage: run.records[stage].result["history"][-1]["step"]
        for stage in ("distill", "control", "baseline")
    }
    assert steps["control"] == steps["baseline"]
    assert steps["control"] == pytest.approx(steps["distill"], rel=0.1)


def test_card_and_page_tell_of_them(run):
    texts = run.records["transfer"].result["unlabelled"]
    card = (run.path / "student/README.md").read_text()
    assert f"{texts:,} unlabelled texts" in card
    assert "control" in card
    assert "control" in (run.path / "report.html").read_text()


def test_other_texts_ask_the_teacher_anew_and_train_none(run, recipe, data, tmp_path):
    other = tmp_path / "others.jsonl"
    lines(other, np.random.default_rng(9), 30, labelled=False)
    planned = plan_stages(
        recipe_for_trial(recipe, {"data.unlabeled": str(other)}), RunFolder.open(run.path)
    )
    redone = [item.stage.name for item in planned if item.reason]
    assert redone[:3] == ["transfer", "outputs", "distill"]
    assert planned[0].stage.name == "teacher"


def test_altered_texts_are_labelled_by_the_teacher(recipe, data, tokenizer, config, tmp_path):
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(tmp_path / "language")
    tokenizer.save_pretrained(tmp_path / "language")
    settings = {
        "data.unlabeled": None,
        "augment": {"copies": 30, "drop": 0.2, "mask": 0.2, "model": str(tmp_path / "language")},
        "baseline": False,
    }
    made = runner.run_pipeline(
        recipe_for_trial(recipe, settings), tmp_path / "run", SilentReporter(), "evaluate"
    )
    count = made.records["transfer"].result["augmented"]
    assert 100 < count <= 270
    assert made.records["outputs"].result["rows"] == 9 + 60 + count
    again = runner.run_pipeline(
        recipe_for_trial(recipe, settings), tmp_path / "again", SilentReporter(), "transfer"
    )
    texts = [load_from_disk(str(m.path / "transfer-set"))["text"][:] for m in (made, again)]
    assert texts[0] == texts[1]
    models = json.loads((made.path / "evaluation.json").read_text())["models"]
    assert [m["name"] for m in models] == ["teacher", "student"]
    assert models[1]["splits"]["test"]["agreement"] > 0.6


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"distill.losses": [{"kind": "cross_entropy"}]}, "no loss of distill.losses"),
        ({"distill.sampling": "balanced"}, "sampling: balanced draws texts by their labels"),
        ({"data.unlabeled": "nowhere.csv"}, "nowhere.csv"),
        ({"augment": {"mask": 0.1, "model": "{teacher}"}}, "holds no masked language model"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    recipe, teacher, tmp_path, settings, says
):
    text = json.dumps(settings).replace("{teacher}", str(teacher))
    with pytest.raises(KdError, match=says):
        runner.run_pipeline(
            recipe_for_trial(recipe, json.loads(text)), tmp_path / "run", SilentReporter()
        )
    assert not (tmp_path / "run").exists()


def test_a_file_of_scores_has_some_for_unlabelled_texts_too(recipe, data, tmp_path):
    rows = [
        json.loads(line)["text"]
        for file in [*(data / "few").iterdir(), data / "texts.jsonl"]
        for line in file.read_text().splitlines()
    ]

    def teacher(texts):
        scores = "\n".join(
            f"{t},{','.join(str(int(w in t)) for w in WORDS)}" for t in dict.fromkeys(texts)
        )
        (tmp_path / "scores.csv").write_text(f"text,{','.join(WORDS)}\n{scores}\n")
        return {
            "kind": "precomputed",
            "file": str(tmp_path / "scores.csv"),
            "output_type": "logits",
        }

    base = recipe.model_dump(mode="json")
    base["student"] = {"model": base["teacher"]["model"]}
    with pytest.raises(KdError, match="has no scores for the text"):
        runner.run_pipeline(
            Recipe.model_validate({**base, "teacher": teacher(rows[:-20])}),
            tmp_path / "x",
            SilentReporter(),
        )
    whole = Recipe.model_validate({**base, "teacher": teacher(rows)})
    made = runner.run_pipeline(whole, tmp_path / "run", SilentReporter(), "outputs")
    assert made.records["outputs"].result["rows"] > 9 + 60
    with pytest.raises(KdError, match="no scores for texts that are altered"):
        runner.run_pipeline(
            recipe_for_trial(whole, {"augment.copies": 1}), tmp_path / "x", SilentReporter()
        )
