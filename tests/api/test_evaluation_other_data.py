"""Other texts are read as a run's own are: columns, task, length."""

import json

import helpers
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

TEXTS = ["where is my card", "how do I open an account", "my card is lost, what now", "hello"]
STARS = [4, 1, 5, 2]


@pytest.fixture
def run(tmp_path, tokenizer, config):
    """What a run of scores leaves of what `kd evaluate` reads."""
    run = tmp_path / "run"
    torch.manual_seed(0)
    scores = BertConfig(
        **{**config.to_dict(), "id2label": {0: "stars"}, "problem_type": "regression"}
    )
    model = AutoModelForSequenceClassification.from_config(scores)
    model.save_pretrained(run / "student")
    tokenizer.save_pretrained(run / "student")
    (run / "recipe.yaml").write_text(
        "name: stars\n"
        "data: {dataset: own.csv, text: review, label: stars, max_length: 5, config: mine,\n"
        "       splits: {train: own, validation: held}}\n"
        "teacher: {model: t, fine_tune: {}}\n"
        "evaluate: {splits: [validation], out_of_scope: other}\n"
    )
    return run


def evaluate(*arguments):
    done = helpers.kd("evaluate", *arguments, "--json")
    return done, done.stdout and json.loads(done.stdout)


def by_hand(run):
    """The mean absolute error, by transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(run / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    errors = []
    for text, stars in zip(TEXTS, STARS, strict=True):
        with torch.no_grad():
            inputs = tokenizer(text, truncation=True, max_length=5, return_tensors="pt")
            errors.append(abs(model(**inputs).logits.item() - stars))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("label", ["stars", "grade"])
@pytest.mark.parametrize("model", ["", "student"])
def test_other_texts_are_read_as_the_run_s_own(run, tmp_path, label, model):
    lines = [f'"{text}",{stars}' for text, stars in zip(TEXTS, STARS, strict=True)]
    (tmp_path / "other.csv").write_text("\n".join([f"review,{label}", *lines]))
    flags = [] if label == "stars" else ["--label", label]
    done, found = evaluate(run / model, "--data", tmp_path / "other.csv", *flags)
    assert done.exit_code == 0, done.stderr
    assert found["task"] == "regression"
    figures = found["models"][0]["splits"]["test"]
    assert figures["mae"] == pytest.approx(by_hand(run), rel=1e-5)


def test_a_flag_overrides_what_the_run_says(run, tmp_path):
    (tmp_path / "other.csv").write_text("text,stars\na,1\nb,2\n")
    done, _ = evaluate(run, "--data", tmp_path / "other.csv")
    assert done.exit_code == 2
    assert "no column review" in done.stderr
    done, _ = evaluate(run, "--data", tmp_path / "other.csv", "--text", "text")
    assert done.exit_code == 0, done.stderr
    done, _ = evaluate(
        run, "--data", tmp_path / "other.csv", "--text", "text",
        "--set", "data.task=multi_label_classification",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "data.task is multi_label_classification" in done.stderr
