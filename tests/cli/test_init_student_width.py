"""Heads, neurons, width and vocabulary by `kd init-student`'s flags."""

import json

import helpers
import pytest
from transformers import AutoModelForSequenceClassification


@pytest.fixture
def kd(tiny_teacher, monkeypatch, tmp_path):
    (tmp_path / "texts.csv").write_text("said\nwhere is my parcel\nthe code fails\n")
    (tmp_path / "empty.csv").write_text("said\n")
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=tiny_teacher):
        return helpers.kd("init-student", model, *arguments)

    return run


def test_the_table_shows_what_gets_narrower(kd, tmp_path):
    done = kd("--intermediate-size", 32, "--trim-vocab", "texts.csv", "--text", "said",
              "--vocab-size", 400, "-o", "small")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    rows = {line[:23].strip(): line.split()[-2:] for line in done.stdout.splitlines()}
    assert rows["feed-forward neurons"] == ["64", "32"]
    assert rows["vocabulary"] == ["600", "400"]
    assert "attention heads" not in rows
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "small").config.kd


def test_a_fresh_model_needs_no_texts(kd):
    done = kd(
        "--hidden-size",
        16,
        "--num-attention-heads",
        4,
        "--intermediate-size",
        20,
        "-o",
        "small",
        "--json",
    )
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["hidden"], result["heads"], result["ffn"]) == (16, 4, 20)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--num-attention-heads", 3],
            "student.num_attention_heads is 3, and the teacher's layers have 2 heads",
        ),
        (["--num-attention-heads", 1], "of type bert has no key"),
        (
            ["--num-attention-heads", 0],
            "--num-attention-heads 0: student.num_attention_heads must be greater",
        ),
        (
            ["--intermediate-size", 65],
            "student.intermediate_size is 65, and the teacher's feed-forward layers have 64",
        ),
        (["--intermediate-size", 32], "needs texts. Give them: --data"),
        (["--vocab-size", 300], "needs texts. Give them: --data"),
        (["--trim-vocab", "nowhere.csv"], "nowhere.csv"),
        (["--trim-vocab", "empty.csv", "--text", "said"], "empty.csv is empty"),
        (["--trim-vocab", "texts.csv"], "there is no column text"),
        (["--trim-vocab", "texts.csv", "--data", "empty.csv"], "are different texts"),
        (["--trim-vocab", "texts.csv", "--text", "said", "--vocab-size", 700], "tokenizer has 600"),
        (["--hidden-size", 33], "student.hidden_size is 33"),
        (["--hidden-size", 24], "no multiple of 16"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(kd, tmp_path, arguments, says):
    done = kd(*arguments)
    assert done.exit_code == 2, done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"texts.csv", "empty.csv"}


def test_a_recipe_trims_to_its_own_texts(kd):
    done = kd("--trim-vocab", "texts.csv", model="quickstart")
    assert done.exit_code == 2
    assert "its own training texts" in done.stderr
    done = kd("--vocab-size", 12000, "--dry-run", "--json", model="quickstart")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["stages"][1]["parameters"] < 12e6
