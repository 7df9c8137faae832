"""Whatever a data file holds: it loads as it was written, or one line says what is wrong."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.errors import KdError
from kdcli.recipe.data import DataConfig
from kdcli.sanitize import printable
from kdcli.tasks import SINGLE_LABEL

KINDS = ("csv", "tsv", "jsonl", "json", "parquet", "arrow", "csv.gz", "jsonl.zst")

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
texts = words.filter(lambda text: text.strip() and "\0" not in text)
labels = st.sampled_from(["cat", "dog", "cow", "0", "1", "007", "a\nb", '"', "é"])
rows = st.lists(st.tuples(texts, labels), min_size=1, max_size=12)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
PIECES = [
    b",", b"\t", b'"', b'""', b"\n", b"\r", b"\0", b"{", b"}", b"[", b"]", b":", b"null", b"1e999",
    b"\xff", b"\xef\xbb\xbf", b"\\ud800", b"\\", b"text", b"label", b"PAR1", b"9" * 5000,
]  # fmt: skip


def written(kind, names, rows):
    """A file of rows as other programs write it."""
    out = pa.BufferOutputStream()
    if kind in ("parquet", "arrow"):
        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        table = pa.Table.from_arrays(columns, names)
        if kind == "parquet":
            pq.write_table(table, out)
        else:
            with pa.ipc.new_stream(out, table.schema) as writer:
                writer.write_table(table)
        return out.getvalue().to_pybytes()
    text, _, compression = kind.partition(".")
    if compression:
        with pa.CompressedOutputStream(out, {"gz": "gzip", "zst": "zstd"}[compression]) as file:
            file.write(written(text, names, rows))
        return out.getvalue().to_pybytes()
    objects = [dict(zip(names, row, strict=False)) for row in rows]
    if kind == "json":
        return json.dumps(objects, indent=1).encode()
    if kind == "jsonl":
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in objects]
        return "".join(lines).encode(errors="surrogatepass")
    text = io.StringIO()
    csv.writer(text, delimiter="," if kind == "csv" else "\t").writerows([names, *rows])
    return text.getvalue().encode()


odd_columns = st.sampled_from(
    [
        words,
        st.none(),
        st.booleans(),
        st.integers(-3, 5),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.binary(max_size=3),
        st.dates(),
        st.lists(words, max_size=2),
        st.fixed_dictionaries({"a": words}),
        st.none() | words,
    ]
)


@st.composite
def odd(draw, kind):
    """A file that is whole, but what is in it may be of any kind, or under another name."""
    names = draw(st.sampled_from([["text", "label"]] * 6 + [["text", "text"], ["a", "label"]]))
    count = draw(st.integers(1, 6))
    if kind in ("parquet", "arrow"):
        cells = [draw(odd_columns) for _ in names]
        row = st.tuples(*cells)
    else:
        cells = anything if kind.startswith("json") else words
        row = st.lists(cells | labels, min_size=1, max_size=3)
    return written(kind, names, draw(st.lists(row, min_size=count, max_size=count)))


@st.composite
def damaged(draw, kind):
    """A sound file, cut short or with some of its bytes changed."""
    content = written(kind, ["text", "label"], draw(rows))
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        match draw(st.sampled_from(["cut", "put", "double", "replace"])):
            case "cut":
                content = content[:end]
            case "put":
                content = content[:start] + draw(st.sampled_from(PIECES)) + content[start:]
            case "double":
                content = content[:end] + content[start:]
            case "replace":
                put = draw(st.binary(max_size=4))
                content = content[:start] + put + content[start + len(put) :]
    return content


def check(path, contents):
    @examples(6)
    @given(contents, st.booleans())
    def run(content, to_train):
        path.write_bytes(content)
        try:
            corpus = load_dataset_splits(
                DataConfig(dataset=str(path), validation_fraction=0.3), 0, require_train=to_train
            )
        except KdError as error:
            assert error.exit_code == 2
            assert printable(str(error)) == str(error)
            assert str(path) in str(error)
            return
        for split in corpus.splits.values():
            assert all(text.strip() for text in split["text"])
            truth = corpus.ground_truth_labels(
                split, range(len(corpus.label_names)), len(corpus.label_names)
            )
            assert len(truth) == len(split)
            if corpus.task is SINGLE_LABEL:
                assert (truth >= 0).all() and (truth < len(corpus.label_names)).all()
            else:
                assert np.isfinite(truth).all()

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sound_is_read_as_it_was_written(tmp_path, kind):
    path = tmp_path / f"d.{kind}"

    @examples(6)
    @given(rows)
    def run(rows):
        path.write_bytes(written(kind, ["text", "label"], rows))
        corpus = load_dataset_splits(DataConfig(dataset=str(path)), 0, require_train=False)
        read = corpus.splits["train"]
        named = [corpus.label_names[label] for label in read["label"]]
        assert list(zip(read["text"], named, strict=True)) == rows

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_odd_loads_or_one_line_says_why_not(tmp_path, kind):
    check(tmp_path / f"d.{kind}", odd(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_loads_or_one_line_says_why_not(tmp_path, kind):
    check(tmp_path / f"d.{kind}", damaged(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_load_or_one_line_says_why_not(tmp_path, kind):
    pieces = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3)).map(b"".join)
    check(tmp_path / f"d.{kind}", st.binary() | pieces)
