"""`kd recipe new`: a recipe for data as it lies there, its guesses explained."""

import json
import re

import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from helpers import kd, kd_stdout

from kdcli.data import dataset_loading
from kdcli.recipe.loading import load_recipe

QUESTIONS = [f"how do I get from here to place {i} by train" for i in range(40)]
INTENTS = [("route", "price", "oos")[i % 3] for i in range(40)]


@pytest.fixture
def new(tmp_path, monkeypatch):
    """Writes columns as a file, and the recipe for it."""
    monkeypatch.chdir(tmp_path)

    def run(columns, *flags, name="mine.jsonl"):
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        kd_stdout("recipe", "new", "--data", name, *flags)
        assert "valid recipe" in kd_stdout("recipe", "check", "recipe.yaml")
        return load_recipe("recipe.yaml"), (tmp_path / "recipe.yaml").read_text()

    return run


def test_a_plain_file_s_columns_are_told_and_explained(new, tmp_path):
    recipe, text = new({"id": range(40), "utterance": QUESTIONS, "intent": INTENTS})
    assert (recipe.data.text, recipe.data.label) == ("utterance", "intent")
    assert recipe.name == "kd-mine"
    assert recipe.data.dataset == str(tmp_path / "mine.jsonl")
    assert "dataset: mine.jsonl" in text
    assert recipe.evaluate.out_of_scope == "oos"
    assert recipe.teacher.model == "google-bert/bert-base-uncased"
    assert recipe.teacher.fine_tune is not None
    assert recipe.distill.dropout == 0
    assert "hidden_mse" in {loss.kind for loss in recipe.distill.losses}
    assert recipe.baseline, "a card says whether the teacher was worth it"
    # 11 words, half as many tokens again, and those at both ends.
    assert recipe.data.max_length == 24
    assert "# 3 labels: oos, price, route" in text
    assert "# There is no validation split" in text
    assert recipe.data.splits.test is None


def test_the_same_data_gives_the_same_recipe_and_another_one_stays(new, tmp_path):
    columns = {"text": QUESTIONS, "label": INTENTS}
    _, text = new(columns)
    assert new(columns)[1] == text
    (tmp_path / "recipe.yaml").write_text("name: by-hand\n")
    done = kd("recipe", "new", "--data", "mine.jsonl")
    assert done.exit_code == 2
    assert done.stderr == "Error: recipe.yaml exists. Name another file: --output.\n"
    assert (tmp_path / "recipe.yaml").read_text() == "name: by-hand\n"


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (("premise", "hypothesis"), "label"),
        (("sentence1", "sentence2"), "is_same"),
        (("Question A", "Question B"), "gold"),
        (("left_1", "left_2"), "class"),
    ],
)
def test_a_pair_is_seen_by_its_columns_names(new, names, label):
    other = [f"is the station {i} far away" for i in range(40)]
    columns = {names[0]: QUESTIONS, names[1]: other, label: [i % 2 for i in range(40)]}
    recipe, _ = new(columns)
    assert (recipe.data.text, recipe.data.label) == (names, label)


YES = [i % 3 == 0 for i in range(40)]
SEVERAL = "multi_label_classification"


@pytest.mark.parametrize(
    ("columns", "data"),
    [
        ({"tags": [["a", "b"], ["b"], [], ["c"]] * 10}, {"label": "tags", "task": SEVERAL}),
        ({"tags": ["a;b", "b", "b; c", "c;a"] * 10},
         {"label": "tags", "task": SEVERAL, "label_separator": ";"}),
        ({"rude": [int(y) for y in YES], "loud": [int(not y) for y in YES]},
         {"label": ("rude", "loud"), "task": SEVERAL}),
        ({"score": [i / 7 for i in range(40)]}, {"label": "score", "task": "regression"}),
    ],
    ids=["lists", "separated", "a column each", "scores"],
)  # fmt: skip
def test_several_labels_a_text_are_seen_and_scores(new, columns, data):
    recipe, _ = new({"text": QUESTIONS, **columns})
    assert dataset_loading.load_dataset_splits(recipe.data, 0).task.name == data["task"]
    assert {key: getattr(recipe.data, key) for key in data} == data
    assert recipe.evaluate.out_of_scope is None


CODES = ["62.01", "47.11", "10.02", "62.10"] * 10


@pytest.mark.parametrize(
    ("cells", "task", "names"),
    [
        ([-1, 0, 1, 1] * 10, None, ["-1", "0", "1"]),
        ([1011, 150_000, 62010, 9] * 10, None, ["9", "1011", "62010", "150000"]),
        (CODES, "single_label_classification", ["10.02", "47.11", "62.01", "62.10"]),
        (["1.0", "2.0"] * 20, "single_label_classification", ["1.0", "2.0"]),
        ([i / 2 for i in range(1, 11)] * 4, "regression", ["label"]),
        (["['app', 'card']", "['app']", "[]", "['a, b']"] * 10, SEVERAL, ["a, b", "app", "card"]),
        (['["app"]', '["app", "card"]'] * 20, SEVERAL, ["app", "card"]),
        (["[0, 1]", "[1, 0]"] * 20, SEVERAL, ["LABEL_0", "LABEL_1"]),
        (["['app' 'card']", "['app']"] * 20, SEVERAL, ["app", "card"]),
        (["fee", "fee ", "FEE", "late"] * 10, None, ["FEE", "fee", "late"]),
        ([f"LABEL_{i}" for i in (0, 2, 10, 1)] * 10, None, [f"LABEL_{i}" for i in (0, 1, 2, 10)]),
    ],
)  # fmt: skip
def test_a_recipe_for_labels_in_csv_is_one_that_loads(tmp_path, monkeypatch, cells, task, names):
    monkeypatch.chdir(tmp_path)
    Dataset.from_dict({"text": QUESTIONS, "label": cells}).to_csv("d.csv", index=False)
    kd_stdout("recipe", "new", "--data", "d.csv")
    recipe, text = load_recipe("recipe.yaml"), (tmp_path / "recipe.yaml").read_text()
    assert recipe.data.task == task
    assert recipe.data.label_separator is None
    assert list(dataset_loading.load_dataset_splits(recipe.data, 0).label_names) == names
    if task != "regression":
        assert f"{len(names)} labels: {', '.join(names)}" in text
    elif task:
        assert f"task: {task}" in text


def test_fractions_in_a_sheet_are_guessed_as_they_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {"text": QUESTIONS, "label": [i / 2 for i in range(1, 11)] * 4}
    Dataset.from_dict(rows).to_pandas().to_excel("d.xlsx", index=False)
    kd_stdout("recipe", "new", "--data", "d.xlsx")
    recipe = load_recipe("recipe.yaml")
    assert (
        recipe.data.task
        == dataset_loading.load_dataset_splits(recipe.data, 0).task.name
        == "regression"
    )


def test_codes_that_jsonl_holds_as_text_are_names(new):
    recipe, _ = new({"text": QUESTIONS, "label": [f"{i % 7}.5{i % 3}" for i in range(40)]})
    assert recipe.data.task is None
    assert (
        len(dataset_loading.load_dataset_splits(recipe.data, 0, require_train=False).label_names)
        == 21
    )


def test_columns_of_true_and_false_are_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rude = [str(yes).upper() for yes in YES]
    Dataset.from_dict({"text": QUESTIONS, "rude": rude, "loud": rude[::-1]}).to_csv("d.csv")
    kd_stdout("recipe", "new", "--data", "d.csv")
    assert dataset_loading.load_dataset_splits(load_recipe("recipe.yaml").data, 0).label_names == (
        "rude",
        "loud",
    )


def test_a_test_split_of_minus_one_alone_has_no_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for split, labels in (("train", [0, 1]), ("validation", [1, 0]), ("test", [-1, -1])):
        Dataset.from_dict({"text": QUESTIONS, "label": labels * 20}).to_csv(f"d/{split}.csv")
    kd_stdout("recipe", "new", "--data", "d")
    recipe, text = load_recipe("recipe.yaml"), (tmp_path / "recipe.yaml").read_text()
    assert "# 2 labels: 0, 1\n" in text
    assert dataset_loading.load_dataset_splits(recipe.data, 0).label_names == ("0", "1")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"title": QUESTIONS, "body": QUESTIONS[::-1], "label": INTENTS},
         "the text column can't be inferred: it may be title, body. Name"),
        ({"text": QUESTIONS, "topic": INTENTS, "tone": INTENTS},
         "the label column can't be inferred: it may be topic, tone. Name"),
        ({"a": range(40), "b": [i / 7 for i in range(40)]},
         "the text column can't be inferred: none of a, b is like one. Name"),
        ({"text": QUESTIONS, "tags": [[{"a": 1}]] * 40},
         "the label column can't be inferred: none of tags is like one. Name"),
    ],
)  # fmt: skip
def test_what_can_t_be_told_apart_is_asked_for(refuses, tmp_path, columns, says):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    said = refuses("recipe", "new", "--data", tmp_path / "d.json")
    assert says in said
    assert said.endswith("--text COLUMN (twice for a pair) and --label COLUMN.")


def test_texts_alone_are_no_data_to_guess_from(refuses, tmp_path):
    (tmp_path / "d.csv").write_text("text\nhello there\nhow are you\n")
    assert refuses("recipe", "new", "--data", tmp_path / "d.csv").endswith(
        "d.csv has texts and no labels, and no recipe is guessed for these. "
        "Write one with data.label: null and a teacher that names the labels."
    )


def test_what_is_said_by_flags_is_not_guessed(new):
    columns = {"title": QUESTIONS, "body": QUESTIONS[::-1], "topic": INTENTS, "tone": INTENTS}
    recipe, text = new(columns, "--text", "title", "--text", "body", "--label", "tone")
    assert (recipe.data.text, recipe.data.label) == (("title", "body"), "tone")
    assert "# As --text says." in text


def test_a_column_that_isn_t_there_is_said(refuses, tmp_path):
    (tmp_path / "d.csv").write_text("text,label\na b,x\n")
    said = refuses("recipe", "new", "--data", tmp_path / "d.csv", "--label", "intent")
    assert said == (
        f"--label: there is no column intent in {tmp_path / 'd.csv'}. Its columns: text, label."
    )


def test_the_splits_of_a_saved_data_set_are_those_of_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split = Dataset.from_dict({"sentence": QUESTIONS, "label": [i % 2 for i in range(40)]})
    split = split.cast_column("label", ClassLabel(names=["bad", "good"]))
    unknown = Dataset.from_dict({"sentence": QUESTIONS, "label": [-1] * 40}, split.features)
    saved = {"train": split, "dev": split, "test": unknown}
    DatasetDict(saved).save_to_disk(str(tmp_path / "d"))
    kd_stdout("recipe", "new", "--data", "d", "--teacher", "distilbert/distilbert-base-uncased")
    recipe = load_recipe("recipe.yaml")
    assert recipe.data.splits.model_dump() == {
        "train": "train", "validation": "dev", "test": None
    }  # fmt: skip
    text = (tmp_path / "recipe.yaml").read_text()
    assert "# The test texts have no labels" in text
    assert recipe.evaluate.splits == ("validation",)
    assert "# 2 labels: bad, good" in text
    assert recipe.teacher.model == "distilbert/distilbert-base-uncased"


def test_what_a_stranger_s_file_holds_adds_no_line(new):
    names = ["x\nevil: 1", "\x1b[31m", "#", "'", '"', "\u2028z"]
    columns = {"text: {": QUESTIONS, "a\nname: evil": [names[i % 6] for i in range(40)]}
    recipe, text = new(columns, name="[odd] naïve: #1.jsonl")
    assert (recipe.data.text, recipe.data.label) == ("text: {", "a\nname: evil")
    assert "\nevil" not in text
    assert "\x1b" not in text
    assert re.fullmatch(r"kd-[A-Za-z0-9._-]+", recipe.name)


def test_a_teacher_at_hand_is_looked_at(tmp_path, monkeypatch, tiny_teacher, small_data):
    monkeypatch.chdir(tmp_path)
    kd_stdout("recipe", "new", "--data", small_data, "--teacher", tiny_teacher)
    recipe, text = load_recipe("recipe.yaml"), (tmp_path / "recipe.yaml").read_text()
    assert recipe.teacher.fine_tune is None
    assert "nothing to fine-tune" in text
    assert recipe.data.max_length <= 64
    assert re.search(r"99 % of the texts have at most \d+ tokens", text)
    assert recipe.evaluate.out_of_scope == "out_of_scope"


@pytest.mark.slow
def test_the_recipe_runs(tmp_path, monkeypatch, tiny_backbone, small_data):
    monkeypatch.chdir(tmp_path)
    kd_stdout("recipe", "new", "--data", small_data, "--teacher", tiny_backbone)
    kd_stdout("distill", "recipe.yaml", "--quiet")
    assert (tmp_path / "runs" / load_recipe("recipe.yaml").name / "report.html").is_file()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([f"how do I pay {i},{i % 2}" for i in range(9)], "header"),
        (["text,label", *(f"how do I pay {i},fee" for i in range(9))], "same label, fee"),
    ],
    ids=["no header", "one label"],
)
def test_data_that_teaches_nothing_gets_no_recipe(tmp_path, monkeypatch, lines, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_text("\n".join(lines))
    done = kd("recipe", "new", "d.csv")
    assert done.exit_code == 2
    assert says in done.stderr
    assert not (tmp_path / "recipe.yaml").exists()


def test_a_check_looks_at_the_data_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_text("text,label\nhow do I pay,fee\n")
    (tmp_path / "r.yaml").write_text("name: m\ndata: {dataset: d.csv}\nteacher: {model: nowhere}\n")
    assert json.loads(kd_stdout("recipe", "check", "r.yaml", "--json"))["data_checked"]
    done = kd("recipe", "check", "r.yaml", "--set", "data.label=tag")
    assert (done.exit_code, "tag" in done.stderr) == (2, True)
    (tmp_path / "d.csv").unlink()
    done = kd("recipe", "check", "r.yaml")
    assert (done.exit_code, "d.csv" in done.stderr) == (2, True)
    assert not json.loads(kd_stdout("recipe", "check", "sst2", "--json"))["data_checked"]
