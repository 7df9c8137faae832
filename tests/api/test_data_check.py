"""`kd data check`: what is planted in the data is found, and nothing else."""

import json

import pytest
from helpers import kd

TRAIN = [
    *((f"how do I cook dish {i}", "food") for i in range(30)),
    *((f"who won match number {i}", "sport") for i in range(2)),
    ("Who won match number 1?", "sport"),  # a repeat
    ("how do i cook DISH 2", "sport"),  # one with another label
    ("ok", "food"),
    ("где мой заказ сегодня", "food"),
    ("", "food"),
    ("a text without its label", ""),
    ("a long one " * 30, "food"),
    *((f"what is the weather on day {i}", "weather") for i in range(2)),
]
TEST = [
    ("how do I cook dish 7", "food"),
    ("How do I cook dish 8!", "sport"),
    ("how far is the moon", "sky"),
    ("what is the capital of France", "food"),
]


@pytest.fixture
def recipe(tmp_path):
    """A recipe on data with every fault."""
    (tmp_path / "in").mkdir()
    for split, rows in {"train": TRAIN, "test": TEST}.items():
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        (tmp_path / "in" / f"{split}.jsonl").write_text("".join(lines))

    def write(teacher, **data):
        path = tmp_path / "mine.yaml"
        written = {"name": "m", "data": {"dataset": str(tmp_path / "in"), **data}}
        path.write_text(json.dumps(written | {"teacher": {"model": str(teacher)}}))
        return path

    return write


def check(recipe, *more, refused=True):
    done = kd("data", "check", recipe, *more)
    assert done.exit_code == (2 if refused else 0), done.output
    return done


def test_data_that_a_run_refuses_is_refused_after_the_table(tmp_path):
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(f"text {i},a\n" for i in range(20)))
    path = tmp_path / "mine.yaml"
    path.write_text("name: m\ndata: {dataset: d.csv}\nteacher: {model: nowhere}\n")
    done = check(path, "--json")
    assert "one class" in json.loads(done.stdout)["refused"]
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    lines = "".join(f"text {i},{i % 2}\n" for i in range(20))
    (tmp_path / "d.csv").write_text(f"text,label\n{lines}")
    assert json.loads(check(path, "--json", refused=False).stdout)["refused"] is None


def test_what_is_planted_is_counted(recipe, tiny_backbone, tmp_path):
    found = json.loads(check(recipe(tiny_backbone), "--json").stdout)
    train, test = found["splits"]["train"], found["splits"]["test"]
    assert (train["rows"], test["rows"]) == (len(TRAIN), 4)
    assert train["empty"] == {"texts": 1, "first": f"{tmp_path / 'in' / 'train.jsonl'}:37"}
    assert train["unlabelled"] == {"texts": 1, "first": f"{tmp_path / 'in' / 'train.jsonl'}:38"}
    assert (train["short"], train["duplicates"], train["conflicting"]) == (1, 2, 1)
    assert found["leaks"] == [{"from": "train", "to": "test", "texts": 2, "with_other_labels": 1}]
    assert found["conflicting"] == 2
    assert found["labels"] == {"not_in_train": ["sky"], "only_in_test": ["sky"], "nowhere": []}
    labels = train["labels"]
    assert labels["texts"] == {"food": 33, "sport": 4, "weather": 2}
    assert labels["rarest"] == {"label": "weather", "texts": 2}
    assert labels["ratio"] == pytest.approx(16.5)
    assert labels["entropy"] == pytest.approx(0.760, abs=1e-3)
    assert labels["evenness"] == pytest.approx(0.760 / 1.585, abs=1e-3)
    assert train["scripts"] == pytest.approx({"Latin": 38 / 39, "Cyrillic": 1 / 39})


def test_lengths_are_those_of_the_teacher_s_tokens(recipe, tiny_backbone, tokenizer):
    found = json.loads(check(recipe(tiny_backbone, max_length=20), "--json").stdout)
    train = found["splits"]["train"]["lengths"]
    sizes = [len(tokenizer(text)["input_ids"]) for text, label in TRAIN if text and label]
    assert (train["unit"], train["limit"], train["longest"]) == ("tokens", 20, max(sizes))
    assert train["over_limit"] == pytest.approx(sum(size > 20 for size in sizes) / len(sizes))
    assert train["unknown"] > 0


@pytest.mark.parametrize("teacher", ["nobody/nothing", "package:nothing_there"])
def test_without_the_teacher_lengths_are_in_words(recipe, teacher):
    done = check(recipe(teacher, max_length=20), "--json")
    assert "lengths are in words" in done.stderr
    lengths = json.loads(done.stdout)["splits"]["train"]["lengths"]
    assert (lengths["unit"], lengths["longest"], lengths["median"]) == ("words", 90, 6)
    assert lengths["over_limit"] == pytest.approx(1 / 39)


def test_a_person_reads_it_in_80_columns(recipe, tiny_backbone):
    shown = check(recipe(tiny_backbone)).stdout
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    assert "train: 1 row has no text, the first one at" in words
    assert "2 texts of test found in train as well, 1 of them labelled otherwise" in words
    assert "Not in train, so that nothing can learn them: sky." in words
    assert "train has 16 texts of food for each of weather" in words
    assert "There is no validation split" in words


def test_labels_of_any_length_leave_the_table_narrow(tmp_path, tiny_backbone):
    rows = "".join(f"text {i},{'label' * 20}{i % 3}\n" for i in range(30))
    (tmp_path / "in").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / "in" / f"{split}.csv").write_text(f"text,label\n{rows}")
    recipe = {"name": "m", "data": {"dataset": "in"}, "teacher": {"model": str(tiny_backbone)}}
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe))
    assert max(map(len, check(tmp_path / "mine.yaml", refused=False).stdout.splitlines())) <= 80


def test_what_is_sound_is_called_so():
    done = check("quickstart", refused=False)
    assert done.stdout.endswith("All is well.\n")
    assert done.stderr == ""


def test_a_pair_is_one_text(tmp_path):
    rows = [("a b c", "d e", "x"), ("a b c", "d f", "y"), ("A b c", "D e!", "x")]
    lines = "".join("\t".join(row) + "\n" for row in rows)
    (tmp_path / "d.tsv").write_text(f"one\ttwo\tlabel\n{lines}")
    recipe = {"name": "m", "data": {"dataset": "d.tsv", "text": ["one", "two"]},
              "teacher": {"model": "nobody/nothing"}}  # fmt: skip
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe))
    train = json.loads(check(tmp_path / "mine.yaml", "--json").stdout)["splits"]["train"]
    assert (train["duplicates"], train["conflicting"]) == (1, 0)
    assert train["lengths"]["median"] == 5


def test_data_that_can_t_be_read_is_an_error(refuses, tmp_path):
    (tmp_path / "d.csv").write_text("text,label\na\n")
    recipe = {"name": "m", "data": {"dataset": "d.csv"}, "teacher": {"model": "nobody/nothing"}}
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe))
    assert "d.csv:2: the number of cells is 1" in refuses("data", "check", tmp_path / "mine.yaml")
