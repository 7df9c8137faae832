"""The teacher is asked about every text, and its answers stay beside their texts."""

import json
from itertools import chain

import numpy as np
import pytest
import torch
from helpers import Listener
from scipy.special import softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig

from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.errors import DataError, ModelError, ResourceError, RunInterruptedError
from kdcli.pipeline import runner
from kdcli.pipeline import teacher_preparation as outputs_stage
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe
from kdcli.training import teacher_logits


@pytest.fixture
def outputs(tiny_teacher, small_data, tmp_path):
    """What the student would learn from, by the recipe's teacher."""

    def run(folder="run", reporter=None, student=(), **teacher):
        recipe = Recipe.model_validate(
            {
                "name": "tiny",
                "data": {"dataset": str(small_data), "label": "intent"},
                "teacher": {"model": str(tiny_teacher), **teacher},
                "student": dict(student),
            }
        )
        made = runner.run_pipeline(
            recipe, tmp_path / folder, reporter or SilentReporter(), "outputs"
        )
        told = teacher_logits.load_teacher_logits(made.path / "teacher-outputs")
        return {s: np.array(told[s]["teacher_logits"], dtype=np.float64) for s in told}, made

    return run


def test_a_disk_without_room_for_them_is_said_before_the_teacher_is_asked(outputs, monkeypatch):
    room = type("Usage", (), {"free": 4 * 17 * (120 + 34) - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda path: room)
    with pytest.raises(ResourceError, match="what the teacher says of every text needs up to"):
        outputs()
    room.free += 1
    outputs()


def probabilities(logits):
    return softmax(logits, axis=-1)


def test_each_row_is_what_the_teacher_says_of_that_text(tiny_teacher, small_data, tmp_path):
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"dataset": str(small_data), "label": "intent"},
            "teacher": {"model": str(tiny_teacher)},
        }
    )
    run = runner.run_pipeline(recipe, tmp_path / "run", SilentReporter(), until="outputs")
    assert run.records["outputs"].result["rows"] == 120 + 34
    told = teacher_logits.load_teacher_logits(run.path / "teacher-outputs")
    assert set(told) == {"train", "validation"}, "test texts are none of the student's business"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_teacher)
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    corpus = load_dataset_splits(recipe.data, recipe.seed)
    for split, outputs in told.items():
        texts = corpus.splits[split]["text"]
        with torch.no_grad():
            alone = [model(**tokenizer(t, return_tensors="pt")).logits[0].numpy() for t in texts]
        np.testing.assert_allclose(np.array(outputs["teacher_logits"]), alone, atol=1e-5)


def turned(folder, place, labels):
    """The same classifier, its classes in the reverse order."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.classifier.weight.data = model.classifier.weight.data.flip(0)
    model.classifier.bias.data = model.classifier.bias.data.flip(0)
    model.config.id2label = dict(enumerate(reversed(labels)))
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}
    model.save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def test_several_teachers_are_averaged_by_the_names_of_their_classes(
    outputs, tiny_teacher, labels, tmp_path
):
    fit = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-2}
    other = turned(tiny_teacher, tmp_path / "turned", labels)
    alone, _ = outputs("alone")
    # The reversed one says the same as the first, and the trained one something else.
    both, _ = outputs("both", ensemble_with=[{"model": str(other)}])
    np.testing.assert_allclose(probabilities(both["train"]), probabilities(alone["train"]), 1e-4)
    trained = {"model": str(tiny_teacher), "fine_tune": fit, "weight": 3.0}
    three, run = outputs("three", ensemble_with=[{"model": str(other), "weight": 2.0}, trained])
    theirs = teacher_logits.load_teacher_logits(tmp_path / "three-teacher3" / "teacher-outputs")
    expected = 0.5 * probabilities(alone["validation"]) + 0.5 * probabilities(
        np.array(theirs["validation"]["teacher_logits"])
    )
    np.testing.assert_allclose(probabilities(three["validation"]), expected, 1e-4)
    # The teacher itself, which the student is cut from, is the first one as it was.
    config = json.loads((run.path / "teacher" / "config.json").read_text())
    assert config["id2label"]["0"] == labels[0]


def test_another_teacher_needn_t_be_one_that_the_student_can_be_cut_from(
    outputs, tiny_teacher, tmp_path
):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_teacher)
    config = DistilBertConfig(
        vocab_size=model.config.vocab_size, dim=16, n_heads=2, hidden_dim=16, n_layers=1,
        id2label=model.config.id2label, label2id=model.config.label2id,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(tmp_path / "other")
    student = {"keep_layers": [0, 2], "architecture": "distilbert"}
    both, _ = outputs("both", student=student, ensemble_with=[{"model": str(tmp_path / "other")}])
    alone, _ = outputs("alone", student=student)
    assert not np.allclose(both["train"], alone["train"])
    assert not (tmp_path / "both-teacher2/student-init").exists()


def test_seeds_are_teachers_too_and_nothing_is_done_twice(outputs, tiny_backbone, tmp_path):
    fit = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-2}
    spec = {"model": str(tiny_backbone), "fine_tune": fit}
    first, _ = outputs(**spec, ensemble_with=[{**spec, "seed": 7}])
    again, _ = outputs(**spec, ensemble_with=[{**spec, "seed": 7}])
    np.testing.assert_array_equal(first["train"], again["train"])
    other, run = outputs(**spec, ensemble_with=[{**spec, "seed": 8}])
    assert not np.allclose(first["train"], other["train"])
    assert run.records["teacher"].seconds > 0
    assert sorted(path.name for path in tmp_path.glob("run*")) == ["run", "run-teacher2"]


class Breaks(SilentReporter):
    """Is stopped when it is told something."""

    def __init__(self, at):
        self.at = at

    def info(self, message):
        if message.startswith(self.at):
            raise KeyboardInterrupt


def test_out_of_fold_each_text_is_answered_by_a_model_that_trained_on_the_others(
    outputs, tiny_backbone
):
    fit = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-2}
    spec = {"model": str(tiny_backbone), "fine_tune": fit}
    seen, _ = outputs("seen", **spec)
    with pytest.raises(RunInterruptedError):
        outputs("apart", Breaks("Part 3 of 3"), **spec, cross_fit_folds=3)
    listener = Listener()
    apart, run = outputs("apart", listener, **spec, cross_fit_folds=3)
    assert [text for text in listener.said if text.startswith("Part")] == [
        "Part 3 of 3 is left out of fine-tuning."
    ]
    for fold in (1, 2, 3):
        log = (run.path / f"logs/teacher-fold-{fold}.jsonl").read_text().splitlines()
        assert max(json.loads(line)["step"] for line in log) == 80 / 16
    np.testing.assert_array_equal(seen["validation"], apart["validation"])
    # No two of the four models are the same, so no text has the answer of the one that knows it.
    assert np.abs(seen["train"] - apart["train"]).max(-1).min() > 1e-3


@pytest.fixture
def folded(tiny_backbone, tmp_path, monkeypatch):
    """The window rows that each fold's teacher is trained on, and the texts that it answers."""

    def run(rows, folds, **data):
        columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        (tmp_path / "data").mkdir()
        for split in ("train", "validation"):
            lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
            (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines))
        trained, answered, ask = [], [], outputs_stage._predict_logits
        monkeypatch.setattr(
            outputs_stage,
            "train_model",
            lambda model, tokenizer, datasets, **_: trained.append(datasets) or [],
        )
        monkeypatch.setattr(
            outputs_stage,
            "_predict_logits",
            lambda m, t, s, j: answered.append(s) or ask(m, t, s, j),
        )
        recipe = Recipe.model_validate(
            {
                "name": "folds",
                "data": {"dataset": str(tmp_path / "data"), **data},
                "teacher": {"model": str(tiny_backbone), "fine_tune": {}, "cross_fit_folds": folds},
            }
        )
        runner.run_pipeline(recipe, tmp_path / "run", SilentReporter(), "outputs")
        texts = [[*splits["part"]["text"]] for splits in answered if "part" in splits]
        return [rows["train"] for rows in trained], texts

    return run


def test_no_window_of_a_text_is_in_the_fold_that_answers_it(folded, tokenizer):
    random = np.random.default_rng(0)
    words = [w for w in tokenizer.vocab if len(w) > 3 and w.isalpha()]
    texts = [" ".join(random.choice(words, random.integers(5, 40))) for _ in range(24)]
    found = folded([(text, i % 2) for i, text in enumerate(texts)], 3, max_length=12,
                   truncation="windows")  # fmt: skip

    def windows(some):
        plain = tokenizer(
            list(some), truncation=True, max_length=12, stride=3, return_overflowing_tokens=True
        )
        return sorted(map(tuple, plain["input_ids"]))

    assert sorted(chain.from_iterable(found[1])) == sorted(texts)
    for trained, answered in zip(*found, strict=True):
        assert sorted(map(tuple, trained["input_ids"])) == windows({*texts} - {*answered})


def test_folds_keep_repeats_together_and_have_every_label(folded, tokenizer):
    words = sorted(w for w in tokenizer.vocab if len(w) > 3 and w.isalpha())[:40]
    # Each text twice, told apart by case and punctuation; two labels are rare.
    labels = ["a", "a", "b", "b", *(["c", "d"] * 18)]
    rows = [
        row for w, y in zip(words, labels, strict=True) for row in ((w, y), (f"{w.upper()}!", y))
    ]
    trained, answered = folded(rows, 4)
    texts, label_of = [text for text, _ in rows], dict(rows)
    assert sorted(chain.from_iterable(answered)) == sorted(texts)
    for training, held_out in zip(trained, answered, strict=True):
        seen = {*texts} - {*held_out}
        assert len(training) == len(seen)
        plain = [{t.lower().strip("!") for t in some} for some in (seen, held_out)]
        assert not plain[0] & plain[1]
        assert {*training["labels"]} == {0, 1, 2, 3}
        common = [sum(label_of[t] == y for t in held_out) for y in "cd"]
        assert all(8 <= count <= 10 for count in common)


def test_fewer_different_texts_than_folds_are_refused_before_anything_is_written(folded, tmp_path):
    with pytest.raises(DataError, match=r"teacher\.cross_fit_folds: 3 folds need 3 .*has 2"):
        folded([("stop", "a"), ("Stop!", "a"), ("go", "b"), ("go.", "b")], 3)
    assert not (tmp_path / "run").exists()


def test_calibrated_only_the_scale_is_another(outputs):
    plain, _ = outputs("plain")
    calibrated, _ = outputs("calibrated", temperature_scaling=True)
    ratio = plain["train"] / calibrated["train"]
    assert ratio.std() < 1e-3 * abs(ratio.mean())
    assert abs(ratio.mean() - 1) > 1e-3


def test_another_teacher_that_does_not_fit_is_met_before_anything_is_trained(
    outputs, tiny_teacher, tmp_path
):
    with pytest.raises(ModelError, match="nowhere"):
        outputs(ensemble_with=[{"model": str(tmp_path / "nowhere")}])
    assert not (tmp_path / "run").exists()
