"""The recipes that come with kd, on data of the same shape as the Hub's, from a Hub on loopback."""

import itertools
import json
import os
import shutil
from pathlib import Path

import forked
import numpy as np
import pytest
from chat_server import ChatServer
from datasets import ClassLabel, Dataset, Features, List, Value
from hub_server import HubServer
from transformers import AutoModelForSequenceClassification, pipeline

WORDS = ("parcel", "refund", "password", "invoice", "delivery", "size")
TEXT, NUMBER = Value("string"), Value("float32")
BERT = (
    "google-bert/bert-base-uncased",
    "google-bert/bert-base-cased",
    "distilbert/distilbert-base-uncased",
)
NLI = "facebook/bart-large-mnli"
SECTIONS = ("World", "Sports", "Business", "Sci/Tech")
# By recipe: the data set, its configuration, columns and splits, and what a plan says of it.
SHAPES = {
    "ag_news": ("fancyzhx/ag_news", "default",
                {"text": TEXT, "label": SECTIONS}, ("train", "test")),
    "banking77": ("mteb/banking77", "default",
                  {"text": TEXT, "label": Value("int64"), "label_text": TEXT}, ("train", "test")),
    "go_emotions": ("google-research-datasets/go_emotions", "simplified",
                    {"text": TEXT, "labels": [6], "id": TEXT}, ("train", "validation", "test")),
    "mnli": ("nyu-mll/glue", "mnli",
             {"premise": TEXT, "hypothesis": TEXT, "label": 3, "idx": Value("int32")},
             ("train", "validation_matched", "validation_mismatched", "test_matched")),
    "sst2": ("stanfordnlp/sst2", "default",
             {"idx": Value("int32"), "sentence": TEXT, "label": 2},
             ("train", "validation", "test")),
    "toxicity": ("google/civil_comments", "default",
                 {"text": TEXT, "toxicity": NUMBER, "insult": NUMBER},
                 ("train", "validation", "test")),
}  # fmt: skip
# The labels of these are kept back, and stand as -1.
KEPT_BACK = {("sst2", "test"), ("mnli", "test_matched")}
FIT = "{epochs: 12, batch_size: 16, learning_rate: 3e-3}"


def rows(columns, count, random, *, kept_back):
    """A split: the words of a text decide its label, its labels, its score."""
    found = {name: [] for name in columns}
    for place in range(count):
        words = [*random.choice(WORDS, 3)]
        number = sum(map(WORDS.index, words))
        for name, kind in columns.items():
            if kind == TEXT:
                found[name].append(" ".join(words))
            elif isinstance(kind, list):
                found[name].append(sorted({WORDS.index(word) for word in words}))
            elif isinstance(kind, int | tuple):
                labels = kind if isinstance(kind, int) else len(kind)
                found[name].append(-1 if kept_back else number % labels)
            else:
                found[name].append(number / 16 if kind == NUMBER else place % 16)
    return found


def feature(kind):
    if isinstance(kind, list):
        return List(feature(kind[0]))
    if isinstance(kind, tuple):
        return ClassLabel(names=[*kind])
    return ClassLabel(names=[f"label {i}" for i in range(kind)]) if isinstance(kind, int) else kind


@pytest.fixture(scope="module")
def hub(tiny_backbone, tmp_path_factory):
    random = np.random.default_rng(0)
    with HubServer() as server:
        weights = {path.name: path for path in tiny_backbone.iterdir()}
        for name in BERT:
            server.add_repo("model", name, weights)
        entailing = tmp_path_factory.mktemp("nli")
        said = dict(enumerate(("contradiction", "neutral", "entailment")))
        AutoModelForSequenceClassification.from_pretrained(
            tiny_backbone, id2label=said, label2id={name: place for place, name in said.items()}
        ).save_pretrained(entailing)
        saved = {path.name: path for path in entailing.iterdir()}
        server.add_repo("model", NLI, weights | saved)
        for recipe, (dataset, config, columns, splits) in SHAPES.items():
            features = Features({name: feature(kind) for name, kind in columns.items()})
            files, named = {}, ""
            for split in splits:
                path = tmp_path_factory.mktemp("data") / f"{split}.parquet"
                count = 320 if split == "train" else 160
                found = rows(columns, count, random, kept_back=(recipe, split) in KEPT_BACK)
                Dataset.from_dict(found, features).to_parquet(str(path))
                files[f"{config}/{split}-00000-of-00001.parquet"] = path
                named += f"  - split: {split}\n    path: {config}/{split}-*\n"
            head = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{named}---\n"
            server.add_repo("dataset", dataset, files | {"README.md": head.encode()})
        yield server


@pytest.fixture
def python(hub, tmp_path):
    outside = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}

    def run(*arguments):
        env = {**outside, **hub.env(), "HF_HOME": str(tmp_path / "hf")}
        done = forked.python(*arguments, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def kd(python):
    return lambda *arguments: json.loads(python("-m", "kdcli", *arguments, "--json"))


PLANS = """
import sys
from typer.testing import CliRunner
from kdcli.cli.app import app
for recipe in sys.argv[1:]:
    done = CliRunner().invoke(app, ["distill", recipe, "--dry-run", "--json"])
    print(" ".join(done.stdout.split()) if done.exit_code == 0 else done.stderr)
"""


def test_the_recipes_suit_their_data(python):
    recipes = sorted(SHAPES)
    for recipe, plan in zip(recipes, python("-c", PLANS, *recipes).splitlines(), strict=True):
        assert plan.startswith("{"), f"{recipe}: {plan}"
        stages = {stage["stage"]: stage for stage in json.loads(plan)["stages"]}
        assert stages["teacher"]["steps"] > 0
        assert 0 < stages["student"]["parameters"] < stages["teacher"]["parameters"]


def shortly(*settings):
    settings = (*settings, f"distill={FIT}", "evaluate.latency_texts=2", "evaluate.baselines=[]")
    return [part for setting in settings for part in ("--set", setting)]


def test_a_zero_shot_teacher(kd, tmp_path):
    found = kd("distill", "zero_shot", *shortly())
    assert [model["name"] for model in found["models"]] == ["teacher", "student"]
    assert (tmp_path / found["student"] / "model.safetensors").is_file()


def test_an_endpoint_as_teacher(kd, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sections = ChatServer(SECTIONS, say=lambda text: "1" if "invoice" in text else "3")
    with sections.running() as url:
        found = kd("distill", "endpoint", *shortly(f"teacher.url={url}"))
    student = found["models"][1]["splits"]["test"]
    assert student["agreement"] > 0.9, "what the server said, which the labels don't tell"
    assert student["accuracy"] < 0.7
    assert set(sections.asked.values()) == {1}


def test_scores_beside_the_recipe(kd, tmp_path):
    shutil.copy(Path(__file__).parents[2] / "recipes/scores.yaml", tmp_path)
    texts = {" ".join(words) for words in itertools.product(WORDS, repeat=3)}
    rows = [",".join([text, "0.7", "0.1", "0.1", "0.1"]) for text in sorted(texts)]
    (tmp_path / "scores.csv").write_text("\n".join([",".join(["text", *SECTIONS]), *rows]))
    plan = kd("distill", "scores.yaml", "--dry-run")
    assert {stage["stage"]: stage for stage in plan["stages"]}["distill"]["steps"] > 0


def test_one_of_several_labels_in_full(kd, tmp_path):
    found = kd("distill", "go_emotions", *shortly(f"teacher.fine_tune={FIT}"))
    assert found["task"] == "multi_label_classification"
    student = found["models"][1]["splits"]["test"]
    assert student["micro_f1"] > 0.6
    scores = pipeline("text-classification", str(tmp_path / found["student"]), top_k=None)
    (said,) = scores("invoice refund size")
    assert {one["label"] for one in said[:3]} == {"label 1", "label 3", "label 5"}
