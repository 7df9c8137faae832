"""Data larger than memory goes through a file on disk, and comes out the same."""

import gzip
import json
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, config

from kdcli.data import dataset_loading, mmap_tables
from kdcli.data.readers import data_files
from kdcli.data.tokenization import tokenize
from kdcli.recipe.data import DataConfig

ROWS = [(f"text number {i} of many, and rather long " * 3, i % 3) for i in range(5_000)]


def write(path, kind):
    if kind == "parquet":
        columns = {"label": [label for _, label in ROWS], "text": [text for text, _ in ROWS]}
        Dataset.from_dict(columns).to_parquet(str(path))
    elif kind == "csv":
        path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS))
    else:
        rows = (json.dumps({"text": text, "label": label}) for text, label in ROWS)
        path.write_text("\n".join(rows))


@pytest.fixture
def data(tmp_path):
    """A file of a kind as train and validation."""

    def make(kind):
        write(tmp_path / f"d.{kind}", kind)
        shutil.copy(tmp_path / f"d.{kind}", tmp_path / f"e.{kind}")
        splits = {"train": f"d.{kind}", "validation": f"e.{kind}"}
        return DataConfig(dataset=str(tmp_path), splits=splits)

    return make


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_texts_are_on_disk_and_the_same(data, monkeypatch, kind):
    spec = data(kind)
    whole = dataset_loading.load_dataset_splits(spec, 0, require_train=False)
    monkeypatch.setattr(mmap_tables, "_MAX_BYTES_IN_MEMORY", 0)
    before = pa.total_allocated_bytes()
    corpus = dataset_loading.load_dataset_splits(spec, 0, require_train=False)
    held = pa.total_allocated_bytes() - before
    # Two splits: a label of eight bytes a row, and little else; the texts are over 1 MB.
    assert held < 2 * len(ROWS) * 8 + 500_000
    assert corpus.label_names == whole.label_names == ("0", "1", "2")
    assert corpus.notes == whole.notes
    for part, split in whole.splits.items():
        assert corpus.splits[part].features == split.features
        assert corpus.splits[part]["text"][:] == split["text"][:]
        assert corpus.splits[part]["label"][:] == split["label"][:]


@contextmanager
def anonymous_memory():
    """Within the block, notes by how many bytes memory grows that is no file's."""

    def now():
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0])

    def watch():
        while not done.wait(0.002):
            grown.append(now() - before)

    done, before = threading.Event(), now()
    grown = [0]
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield grown
    finally:
        done.set()
        watcher.join()


DECODED = 100_000_000
LONG = "manywords" * 4_000
COUNT = DECODED // len(LONG)


def write_packed(path):
    """A small file of texts that repeat; little is in memory at a time."""
    row = json.dumps({"text": LONG, "label": "1"}) + "\n"
    if path.suffix == ".parquet":
        repeated = pa.DictionaryArray.from_arrays(pa.array([0] * COUNT, pa.int32()), [LONG])
        columns = {"text": repeated, "label": ["1"] * COUNT}
        pq.write_table(pa.table(columns), path, store_schema=False)
    else:
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.writelines(row for _ in range(COUNT))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("name", ["d.parquet", "d.jsonl.gz"])
def test_what_a_small_file_decodes_to_is_not_held_in_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(mmap_tables, "_MAX_BYTES_IN_MEMORY", 8_000_000)
    write_packed(tmp_path / name)
    assert (tmp_path / name).stat().st_size < DECODED / 100
    spec = DataConfig(dataset=str(tmp_path), splits={"test": name})
    with anonymous_memory() as grown:
        corpus = dataset_loading.load_dataset_splits(spec, 0, require_train=False)
    assert max(grown) < 0.6 * DECODED
    assert len(corpus.splits["test"]) == COUNT
    assert corpus.splits["test"][COUNT - 1] == {"text": LONG, "label": 0}


def test_tokens_are_on_disk_and_the_same(data, monkeypatch, tokenizer):
    split = (
        dataset_loading.load_dataset_splits(data("jsonl"), 0, require_train=False)
        .splits["train"]
        .select(range(5_000))
    )
    whole = tokenize.tokenize_dataset(split, tokenizer, 64)
    monkeypatch.setattr(tokenize, "_MIN_ROWS_ON_DISK", 0)
    before = pa.total_allocated_bytes()
    rows = tokenize.tokenize_dataset(split, tokenizer, 64)
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert rows.features == whole.features
    assert rows[:] == whole[:]
    assert (tokenize.distinct_token_ids(rows) == tokenize.distinct_token_ids(whole)).all()


def test_no_file_stays_behind(data, monkeypatch, tokenizer, tmp_path):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(mmap_tables, "_MAX_BYTES_IN_MEMORY", 0)
    monkeypatch.setattr(tokenize, "_MIN_ROWS_ON_DISK", 0)
    split = (
        dataset_loading.load_dataset_splits(data("csv"), 0, require_train=False)
        .splits["train"]
        .select(range(100))
    )
    tokenize.tokenize_dataset(split, tokenizer, 64)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_broken_row_far_into_a_large_file_is_said_by_its_line(data, monkeypatch, tmp_path):
    monkeypatch.setattr(mmap_tables, "_MAX_BYTES_IN_MEMORY", 0)
    monkeypatch.setattr(data_files, "_MAX_BATCH_ROWS", 1_000)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    spec = data("csv")
    with (tmp_path / "d.csv").open("a") as file:
        file.write("a,b,c\n")
    with pytest.raises(data_files.DataError, match=r"d\.csv:5002: the number of cells is 3"):
        dataset_loading.load_dataset_splits(spec, 0)
    assert list((tmp_path / "cache").iterdir()) == []
