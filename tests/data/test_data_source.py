"""The same texts, however they lie on the disk."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from kdcli.data.source import identity, load
from kdcli.errors import DataError
from kdcli.recipe.data import DataSpec

ROWS = {
    "text": [f"text number {i}" for i in range(40)],
    "label": [("cat", "dog", "cow", "hen")[i % 4] for i in range(40)],
}


def write(path, kind):
    data = Dataset.from_dict(ROWS)
    if kind == "csv":
        data.to_csv(path / "d.csv", index=False)
    elif kind == "tsv":
        data.to_csv(path / "d.tsv", index=False, sep="\t")
    elif kind == "jsonl":
        data.to_json(path / "d.jsonl")
    elif kind == "parquet":
        data.to_parquet(path / "d.parquet")
    elif kind == "folder":
        (path / "d.folder").mkdir()
        data.to_parquet(path / "d.folder" / "train.parquet")
    else:
        DatasetDict({"train": data}).save_to_disk(str(path / "d.saved"))
    return str(path / f"d.{kind}")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder", "saved"])
def test_every_kind_of_file_gives_the_same_corpus(tmp_path, kind):
    corpus = load(DataSpec(dataset=write(tmp_path, kind)), seed=0)
    assert corpus.labels == ("cat", "cow", "dog", "hen")
    texts = {t for split in corpus.splits.values() for t in split["text"]}
    assert texts == set(ROWS["text"])


def test_a_missing_validation_split_is_cut_seeded_stratified_and_said(tmp_path):
    spec = DataSpec(dataset=write(tmp_path, "csv"), validation_fraction=0.2)
    corpus, same, other = load(spec, 1), load(spec, 1), load(spec, 2)
    validation = corpus.splits["validation"]
    assert sorted(validation["label"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not set(validation["text"]) & set(corpus.splits["train"]["text"])
    assert validation["text"] == same.splits["validation"]["text"]
    assert validation["text"] != other.splits["validation"]["text"]
    assert "8 of the 40 training texts were set aside" in corpus.notes[0]


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ([2, 0, 1, 0], ("0", "1", "2")),
        (["b", "a", "b", "a"], ("a", "b")),
        ([True, False, True, False], ("False", "True")),
    ],
)
def test_labels_get_names(tmp_path, column, names):
    train = Dataset.from_dict({"text": list("wxyz"), "label": column})
    DatasetDict({"train": train, "test": train, "dev": train}).save_to_disk(str(tmp_path / "d"))
    corpus = load(DataSpec(dataset=str(tmp_path / "d")), 0)
    assert corpus.labels == names
    assert [corpus.labels[i] for i in corpus.splits["train"]["label"]] == [str(v) for v in column]


def test_a_class_label_keeps_its_order(tmp_path):
    data = Dataset.from_dict({"text": list("abcd"), "label": [0, 1, 0, 1]})
    data = data.cast_column("label", ClassLabel(names=["zebra", "ant"]))
    DatasetDict({"train": data, "validation": data}).save_to_disk(str(tmp_path / "d"))
    assert load(DataSpec(dataset=str(tmp_path / "d")), 0).labels == ("zebra", "ant")


def saved(path, **splits):
    DatasetDict(splits).save_to_disk(str(path / "d"))
    return str(path / "d")


def classified(labels, names):
    data = Dataset.from_dict({"text": [f"t{i}" for i in range(len(labels))], "label": labels})
    return data.cast_column("label", ClassLabel(names=names))


def test_splits_that_number_their_labels_differently_agree_by_name(tmp_path):
    path = saved(
        tmp_path, train=classified([0, 1], ["cat", "dog"]), test=classified([0, 1], ["dog", "cat"])
    )
    corpus = load(DataSpec(dataset=path), 0, to_train=False)
    assert [corpus.labels[i] for i in corpus.splits["test"]["label"]] == ["dog", "cat"]


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (classified([0, -1], ["cat", "dog"]), "d, split test, row 2: there is no label"),
        (classified([0, 1], ["cat", "cow"]), "test, row 2: the label 'cow' is none of cat"),
        (Dataset.from_dict({"text": ["t"], "label": [None]}).cast_column(
            "label", ClassLabel(names=["cat", "dog"])), "d, split test, row 1: there is no label"),
    ],
)  # fmt: skip
def test_a_label_that_means_nothing_is_refused(tmp_path, test, says):
    path = saved(tmp_path, train=classified([0, 1], ["cat", "dog"]), test=test)
    with pytest.raises(DataError) as raised:
        load(DataSpec(dataset=path), 0)
    assert says in str(raised.value)


def test_splits_of_other_names_are_listed(tmp_path):
    path = saved(tmp_path, morning=classified([0, 1], ["cat", "dog"]))
    with pytest.raises(DataError, match="there is morning"):
        load(DataSpec(dataset=path), 0, to_train=False)
    spec = DataSpec(dataset=path, splits={"test": "morning"})
    assert list(load(spec, 0, to_train=False).splits) == ["test"]


def test_columns_may_have_each_other_s_names(tmp_path):
    rows = {"title": ["A", "B"], "text": ["a", "b"], "label": ["x", "y"]}
    path = saved(tmp_path, train=Dataset.from_dict(rows), validation=Dataset.from_dict(rows))
    pairs = load(DataSpec(dataset=path, text=("title", "text")), 0).splits["train"]
    assert (pairs["text"][:], pairs["text_pair"][:]) == (["A", "B"], ["a", "b"])
    swapped = load(DataSpec(dataset=path, text="label", label="text"), 0)
    assert (swapped.splits["train"]["text"][:], swapped.labels) == (["x", "y"], ("a", "b"))


@pytest.mark.parametrize("name", ["train.csv", "data/train.csv"])
@pytest.mark.parametrize("beside", ["dataset_infos.json", "README.md"])
def test_a_folder_s_files_may_lie_deeper_and_beside_others(tmp_path, name, beside):
    train = tmp_path / name
    train.parent.mkdir(exist_ok=True)
    train.write_text("text,label\nnull,a\nNA,b\n")
    train.with_name("validation.csv").write_text("text,label\nnan,a\n")
    (tmp_path / beside).write_text("{}")
    corpus = load(DataSpec(dataset=str(tmp_path)), 0)
    assert corpus.splits["train"]["text"][:] == ["null", "NA"]


def test_a_word_that_looks_like_nothing_is_text(tmp_path):
    (tmp_path / "d.csv").write_text("text,label\nnull,a\nNA,b\nNone,a\nnan,b\n")
    spec = DataSpec(dataset=str(tmp_path / "d.csv"), validation_fraction=0.5)
    splits = load(spec, 0).splits.values()
    assert {t for split in splits for t in split["text"]} == {"null", "NA", "None", "nan"}


@pytest.mark.parametrize(
    ("content", "changes", "says"),
    [
        ("text,label\na,x\nb,y\n", {"text": "body"}, "data.text: there is no column body"),
        ("text,label\na,x\nb,y\n", {"splits": {"test": "t"}}, "there is no split t"),
        ("text,label\na,3\nb,3\n", {}, "one class only (3)"),
        ("text,label\na,x\nb,y\n", {"text": "label"}, "are columns of their own"),
        ("text,label\na,x\nb,y\n", {"splits": {"train": "t"}}, "no split t to train on"),
    ],
)
def test_what_the_data_doesn_t_have_is_one_sentence(tmp_path, content, changes, says):
    (tmp_path / "d.csv").write_text(content)
    with pytest.raises(DataError) as raised:
        load(DataSpec(dataset=str(tmp_path / "d.csv"), **changes), 0)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_neither_file_nor_id_is_told_at_once():
    with pytest.raises(DataError, match="no such file or folder"):
        load(DataSpec(dataset="nothing.csv"), 0)


def test_data_is_known_by_its_content_not_its_place(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = (write(tmp_path / n, "csv") for n in "ab")
    assert identity(DataSpec(dataset=one)) == identity(DataSpec(dataset=two))
    with Path(two).open("a") as file:
        file.write("more,cat\n")
    assert identity(DataSpec(dataset=one)) != identity(DataSpec(dataset=two))
