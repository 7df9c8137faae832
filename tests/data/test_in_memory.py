"""Data in memory against the same data in a file."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from kdcli.data.dataset_loading import dataset_cache_key, load_dataset_splits
from kdcli.data.in_memory import register_dataset
from kdcli.errors import DataError
from kdcli.recipe.data import DataConfig

TEXTS = [f"text number {i} of forty" for i in range(40)]
LABELS = {
    "names": ["dog", "cat"] * 20,
    "whole numbers": [2, 10] * 20,
    "fractions": [0.5, 1.25, 3.0, 2.5] * 10,
}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def polars_frame(columns):
    return pytest.importorskip("polars").DataFrame(columns)


MAKERS = {
    "pandas": pd.DataFrame,
    "polars": polars_frame,
    "pyarrow": pa.table,
    "datasets": Dataset.from_dict,
}


def load(path):
    return load_dataset_splits(DataConfig(dataset=str(path)), 7)


def rows(data):
    return {name: split.to_list() for name, split in data.splits.items()}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_table_gives_the_splits_and_labels_of_its_file(tmp_path, make, labels):
    columns = {"text": TEXTS, "label": labels}
    pd.DataFrame(columns).to_json(tmp_path / "d.jsonl", orient="records", lines=True)
    from_file = load(tmp_path / "d.jsonl")
    in_memory = load(register_dataset(make(columns)))
    assert rows(in_memory) == rows(from_file)
    assert in_memory.label_names == from_file.label_names
    assert in_memory.task == from_file.task


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_same_content_has_the_same_key(make):
    columns = {"text": TEXTS, "label": LABELS["names"]}
    path = register_dataset(make(columns))
    key = dataset_cache_key(DataConfig(dataset=path))
    load(path)
    assert register_dataset(make(columns)) == path
    assert dataset_cache_key(DataConfig(dataset=path)) == key
    changed = register_dataset(make(columns | {"text": [*TEXTS[:-1], "another"]}))
    assert dataset_cache_key(DataConfig(dataset=changed)) != key


def test_the_key_does_not_depend_on_chunks_or_an_earlier_copy(tmp_path):
    table = pa.table({"text": TEXTS, "label": LABELS["names"]})
    path = register_dataset(table)
    key = dataset_cache_key(DataConfig(dataset=path))
    Path(path).rename(tmp_path / "elsewhere")
    assert register_dataset(pa.concat_tables([table.slice(0, 7), table.slice(7)])) == path
    assert dataset_cache_key(DataConfig(dataset=path)) == key


def test_splits_and_class_labels_are_kept():
    features = Features(text=Value("string"), label=ClassLabel(names=["zebra", "ant"]))
    train = Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 20}, features=features)
    splits = DatasetDict(train=train, dev=train.select(range(4)), test=train.select([5, 3, 2]))
    data = load(register_dataset(splits))
    assert data.label_names == ("zebra", "ant")
    assert data.labels_are_ordered
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 40,
        "validation": 4,
        "test": 3,
    }
    assert data.splits["test"]["text"][:] == [TEXTS[5], TEXTS[3], TEXTS[2]]


def test_frames_by_split_name():
    frame = pd.DataFrame({"text": TEXTS, "label": LABELS["names"]}, index=range(5, 45))
    data = load(register_dataset({"train": frame, "test": frame.head(3)}))
    assert len(data.splits["test"]) == 3


def test_a_categorical_column_gives_its_categories():
    frame = pd.DataFrame({"text": TEXTS, "label": pd.Categorical(LABELS["names"])})
    assert load(register_dataset(frame)).label_names == ("cat", "dog")


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_missing_label_is_named_by_its_row(make):
    path = register_dataset(make({"text": TEXTS, "label": ["cat", None] * 20}))
    with pytest.raises(DataError, match="row 2"):
        load(path)


@pytest.mark.parametrize(
    "data",
    [
        3,
        [],
        pd.DataFrame({"text": [], "label": []}),
        pd.DataFrame({"text": TEXTS[:2], "label": [1, "x"]}),
    ],
    ids=["a number", "a list", "no rows", "mixed types"],
)
def test_what_is_no_data_is_refused(data):
    with pytest.raises(DataError):
        register_dataset(data)
