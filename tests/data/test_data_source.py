"""The same texts, however they lie on the disk."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from kdcli.data.source import identity, load
from kdcli.errors import DataError
from kdcli.recipe.schema import DataSpec

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
        ("text,label\na,x\n ,y\n", {}, "Row 2 of split train has no text"),
        ("text,label\na,x\nb,x\n", {}, "one class only"),
        ("text,label\n", {}, "is empty"),
        ("", {}, "can't be read"),
        ("text,label\na,1.5\nb,2.5\n", {}, "a label is a name or a whole number"),
        ("text,label\na,x\nb,y\n", {}, "No validation split can be set aside"),
    ],
)
def test_unusable_data_is_one_sentence(tmp_path, content, changes, says):
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
