"""The same texts, however they lie on the disk."""

from pathlib import Path

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from pydantic import ValidationError

from kdcli.data.dataset_loading import dataset_cache_key, load_dataset_splits
from kdcli.errors import DataError, MissingColumnError
from kdcli.recipe import loading as recipes
from kdcli.recipe.data import DataConfig, SplitsConfig

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
    elif kind in ("csv.gz", "csv.zst", "jsonl.gz", "jsonl.zst", "json.zst", "tsv.gz"):
        text, compression = kind.split(".")
        whole = Path(write(path, "jsonl" if text == "json" else text)).read_bytes()
        compression = {"gz": "gzip", "zst": "zstd"}[compression]
        with pa.output_stream(str(path / f"d.{kind}"), compression=compression) as file:
            file.write(whole)
    elif kind == "arrow":
        with pa.ipc.new_file(str(path / "d.arrow"), data.data.table.schema) as file:
            file.write_table(data.data.table)
    elif kind == "stream.arrow":
        data.save_to_disk(str(path / "d"))
        (path / "d" / "data-00000-of-00001.arrow").rename(path / "d.stream.arrow")
    elif kind == "one":
        data.save_to_disk(str(path / "d.one"))
    elif kind == "folder":
        (path / "d.folder").mkdir()
        data.to_parquet(path / "d.folder" / "train.parquet")
    else:
        DatasetDict({"train": data}).save_to_disk(str(path / "d.saved"))
    return str(path / f"d.{kind}")


KINDS = [
    "csv", "tsv", "jsonl", "parquet", "arrow", "stream.arrow", "folder", "saved", "one",
    "csv.gz", "csv.zst", "tsv.gz", "jsonl.gz", "jsonl.zst", "json.zst",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_corpus(tmp_path, kind):
    corpus = load_dataset_splits(DataConfig(dataset=write(tmp_path, kind)), seed=0)
    assert corpus.label_names == ("cat", "cow", "dog", "hen")
    texts = {t for split in corpus.splits.values() for t in split["text"]}
    assert texts == set(ROWS["text"])


def test_a_missing_validation_split_is_cut_seeded_stratified_and_said(tmp_path):
    spec = DataConfig(dataset=write(tmp_path, "csv"), validation_fraction=0.2)
    corpus, same, other = (
        load_dataset_splits(spec, 1),
        load_dataset_splits(spec, 1),
        load_dataset_splits(spec, 2),
    )
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
    corpus = load_dataset_splits(DataConfig(dataset=str(tmp_path / "d")), 0)
    assert corpus.label_names == names
    assert [corpus.label_names[i] for i in corpus.splits["train"]["label"]] == [
        str(v) for v in column
    ]


def test_a_class_label_keeps_its_order(tmp_path):
    data = Dataset.from_dict({"text": list("abcd"), "label": [0, 1, 0, 1]})
    data = data.cast_column("label", ClassLabel(names=["zebra", "ant"]))
    DatasetDict({"train": data, "validation": data}).save_to_disk(str(tmp_path / "d"))
    assert load_dataset_splits(DataConfig(dataset=str(tmp_path / "d")), 0).label_names == (
        "zebra",
        "ant",
    )


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
    corpus = load_dataset_splits(DataConfig(dataset=path), 0, require_train=False)
    assert [corpus.label_names[i] for i in corpus.splits["test"]["label"]] == ["dog", "cat"]


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (classified([0, -1], ["cat", "dog"]), "d, split test, row 2: there is no label"),
        (classified([0, 1], ["cat", "cow"]), "test, row 2: the label 'cow' is none of cat"),
        (Dataset.from_dict({"text": ["t", "u"], "label": [None, 1]}).cast_column(
            "label", ClassLabel(names=["cat", "dog"])), "d, split test, row 1: there is no label"),
    ],
)  # fmt: skip
def test_a_label_that_means_nothing_is_refused(tmp_path, test, says):
    path = saved(tmp_path, train=classified([0, 1], ["cat", "dog"]), test=test)
    with pytest.raises(DataError) as raised:
        load_dataset_splits(DataConfig(dataset=path), 0)
    assert says in str(raised.value)


def test_splits_of_other_names_are_listed(tmp_path):
    path = saved(tmp_path, morning=classified([0, 1], ["cat", "dog"]))
    with pytest.raises(DataError, match="there is morning"):
        load_dataset_splits(DataConfig(dataset=path), 0, require_train=False)
    spec = DataConfig(dataset=path, splits={"test": "morning"})
    assert list(load_dataset_splits(spec, 0, require_train=False).splits) == ["test"]


def test_columns_may_have_each_other_s_names(tmp_path):
    rows = {"title": ["A", "B"], "text": ["a", "b"], "label": ["x", "y"]}
    path = saved(tmp_path, train=Dataset.from_dict(rows), validation=Dataset.from_dict(rows))
    pairs = load_dataset_splits(DataConfig(dataset=path, text=("title", "text")), 0).splits["train"]
    assert (pairs["text"][:], pairs["text_pair"][:]) == (["A", "B"], ["a", "b"])
    swapped = load_dataset_splits(DataConfig(dataset=path, text="label", label="text"), 0)
    assert (swapped.splits["train"]["text"][:], swapped.label_names) == (["x", "y"], ("a", "b"))


@pytest.mark.parametrize("name", ["train.csv", "data/train.csv"])
@pytest.mark.parametrize("beside", ["dataset_infos.json", "README.md"])
def test_a_folder_s_files_may_lie_deeper_and_beside_others(tmp_path, name, beside):
    train = tmp_path / name
    train.parent.mkdir(exist_ok=True)
    train.write_text("text,label\nnull,a\nNA,b\n")
    train.with_name("validation.csv").write_text("text,label\nnan,a\n")
    (tmp_path / beside).write_text("{}")
    corpus = load_dataset_splits(DataConfig(dataset=str(tmp_path)), 0)
    assert corpus.splits["train"]["text"][:] == ["null", "NA"]


def test_a_word_that_looks_like_nothing_is_text(tmp_path):
    (tmp_path / "d.csv").write_text("text,label\nnull,a\nNA,b\nNone,a\nnan,b\n")
    spec = DataConfig(dataset=str(tmp_path / "d.csv"), validation_fraction=0.5)
    splits = load_dataset_splits(spec, 0).splits.values()
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
        load_dataset_splits(DataConfig(dataset=str(tmp_path / "d.csv"), **changes), 0)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_neither_file_nor_id_is_told_at_once():
    with pytest.raises(DataError, match="no such file or folder"):
        load_dataset_splits(DataConfig(dataset="nothing.csv"), 0)


def test_data_is_known_by_its_content_not_its_place(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = (write(tmp_path / n, "csv") for n in "ab")
    assert dataset_cache_key(DataConfig(dataset=one)) == dataset_cache_key(DataConfig(dataset=two))
    with Path(two).open("a") as file:
        file.write("more,cat\n")
    assert dataset_cache_key(DataConfig(dataset=one)) != dataset_cache_key(DataConfig(dataset=two))


UNLABELLED = {
    "no column": ({"text": ["c"]}, {}),
    "-1": ({"text": ["c"], "label": [-1]}, {}),
    "null": ({"text": ["c"], "label": [None]}, {}),
    "empty": ({"text": ["c"], "label": [""]}, {}),
    "empty lists": ({"text": ["c"], "label": [[]]}, {"label": ["x"]}),
    "-1.0": ({"text": ["c"], "label": [-1.0]}, {"label": 0.5}),
}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "saved"])
@pytest.mark.parametrize(("test", "labels"), UNLABELLED.values(), ids=UNLABELLED)
def test_a_test_split_without_labels_is_left_out_and_said(tmp_path, kind, test, labels):
    if kind == "csv" and isinstance(labels.get("label"), list):
        pytest.skip("no lists in csv")
    train = Dataset.from_dict({"text": ["a", "b"], "label": [labels.get("label", 1), 0]}
                              if not isinstance(labels.get("label"), list) else
                              {"text": ["a", "b"], "label": [["x"], []]})  # fmt: skip
    splits = {"train": train, "test": Dataset.from_dict(test)}
    folder = tmp_path / "d"
    if kind == "saved":
        DatasetDict(splits).save_to_disk(str(folder))
    for name, split in splits.items() if kind != "saved" else ():
        folder.mkdir(exist_ok=True)
        write = split.to_csv if kind == "csv" else split.to_json
        write(str(folder / f"{name}.{kind}"), **({"index": False} if kind == "csv" else {}))
    corpus = load_dataset_splits(DataConfig(dataset=str(folder)), 0, require_train=False)
    assert [*corpus.splits] == ["train"]
    assert any(note.startswith("The test split test of") for note in corpus.notes)


def test_a_test_split_that_is_labelled_in_part_is_refused_by_its_row(tmp_path):
    for name, rows in {"train": "a,x\nb,y\n", "test": "c,x\nd,\n"}.items():
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
    with pytest.raises(DataError, match=r"test\.csv:3: there is no label"):
        load_dataset_splits(DataConfig(dataset=str(tmp_path)), 0, require_train=False)


def test_a_test_split_that_lacks_one_of_several_columns_of_labels_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("text,rude,loud\na,0,1\n")
    (tmp_path / "test.csv").write_text("text,rude\na,0\n")
    with pytest.raises(MissingColumnError, match="no column loud"):
        load_dataset_splits(
            DataConfig(dataset=str(tmp_path), label=("rude", "loud")), 0, require_train=False
        )


def test_no_test_split_and_none_that_is_stated_are_two_things(tmp_path):
    path = saved(tmp_path, **{name: classified([0, 1], ["cat", "dog"]) for name in
                              ("train", "validation", "test")})  # fmt: skip
    assert "test" in load_dataset_splits(DataConfig(dataset=path), 0).splits
    spec = DataConfig(dataset=path, splits={"test": None})
    assert [*load_dataset_splits(spec, 0).splits] == ["train", "validation"]
    # What a run writes down and reads again says the same.
    for one in (spec, DataConfig(dataset=path)):
        again = DataConfig.model_validate(one.model_dump(mode="json"))
        assert again.splits.explicit_splits == {"train": "train", **one.splits.explicit_splits}
        assert again == one
    whole = saved(tmp_path / "whole", **{name: classified([0, 1] * 9, ["cat", "dog"]) for name in
                                         ("train", "validation")})  # fmt: skip
    cut = load_dataset_splits(DataConfig(dataset=whole, splits={"validation": None}), 0)
    assert cut.source_split_names == {"train": "train", "validation": "train, held out"}


@pytest.mark.parametrize(
    "splits",
    [
        {"validation": "test", "test": "test"},
        {"validation": "train"},
        {"train": ["a.csv", "b.csv"], "test": "b.csv"},
    ],
)
def test_one_split_can_t_play_two_parts(splits):
    with pytest.raises(ValidationError, match="metrics of one would"):
        SplitsConfig.model_validate(splits)


def test_a_split_that_plays_another_part_is_no_test_split(tmp_path):
    path = saved(tmp_path, train=classified([0, 1], ["cat", "dog"]),
                 test=classified([1, 0], ["cat", "dog"]))  # fmt: skip
    corpus = load_dataset_splits(DataConfig(dataset=path, splits={"validation": "test"}), 0)
    assert corpus.source_split_names == {"train": "train", "validation": "test"}


ODD = ["exports [2024]", "why?", "a*b", "[a-z]"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kind", ["csv", "parquet", "saved", "one", "folder"])
def test_what_a_pattern_is_made_of_may_be_in_a_name(tmp_path, kind, name):
    (tmp_path / name).mkdir()
    (tmp_path / "exports 2").mkdir()  # what the pattern would fit
    path = Path(write(tmp_path / name, kind))
    inside = path.rename(path.with_name(f"{name}{path.suffix if path.is_file() else ''}"))
    for spec in (DataConfig(dataset=str(inside)), DataConfig(dataset=str(tmp_path / name))):
        if kind in ("saved", "one", "folder") and spec.dataset == str(tmp_path / name):
            continue
        found = load_dataset_splits(spec, 0)
        assert sum(map(len, found.splits.values())) == 40
        assert dataset_cache_key(spec)


@pytest.mark.parametrize("name", ODD)
def test_files_and_patterns_below_an_odd_name_are_found(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for part in ("part-1", "part-2", "test [1]"):
        (folder / f"{part}.csv").write_text(f"text,label\n{part} a,x\n{part} b,y\n")
    pattern = DataConfig(dataset=str(folder / "part-*.csv"))
    assert len(load_dataset_splits(pattern, 0, require_train=False).splits["train"]) == 4
    splits = {"train": "part-*.csv", "validation": "test [1].csv"}
    assert (
        len(
            load_dataset_splits(DataConfig(dataset=str(folder), splits=splits), 0).splits[
                "validation"
            ]
        )
        == 2
    )
    (folder / "mine.yaml").write_text("name: m\ndata: {dataset: part-*.csv}\nteacher: {model: t}")
    assert recipes.load_recipe(str(folder / "mine.yaml")).data.dataset == pattern.dataset


def test_a_card_in_a_folder_with_an_odd_name_says_so(tmp_path):
    folder = tmp_path / "[2024]"
    folder.mkdir()
    (folder / "train.csv").write_text("text,label\na,x\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.raises(DataError, match="Rename it"):
        load_dataset_splits(DataConfig(dataset=str(folder)), 0)


def test_a_file_is_in_one_split_and_once(parts):
    for splits in (
        {"train": ["part-*.csv", "part-1.csv"]},
        {"train": "part-*.csv", "validation": "part-1.csv"},
    ):
        with pytest.raises(DataError, match=r"part-1.csv is among the files of train already"):
            load_dataset_splits(DataConfig(dataset=str(parts), splits=splits), 0)


@pytest.fixture
def parts(tmp_path):
    """A folder of files that no split is called by."""
    for name, rows in {"part-1": "a,x\nb,y\n", "part-2": "c,x\n", "held/out": "d,y\n"}.items():
        file = tmp_path / "in" / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"text,label\n{rows}")
    (tmp_path / "in" / ".part-3.csv").write_text("left by another program")
    return tmp_path / "in"


def test_a_pattern_is_one_split_in_the_order_of_names(parts):
    spec = DataConfig(dataset=str(parts / "part-*.csv"))
    assert load_dataset_splits(spec, 0, require_train=False).splits["train"]["text"][:] == [
        "a",
        "b",
        "c",
    ]
    everywhere = DataConfig(dataset=str(parts / "**" / "*.csv"))
    assert load_dataset_splits(everywhere, 0, require_train=False).splits["train"]["text"][:] == [
        "d",
        "a",
        "b",
        "c",
    ]


def test_splits_can_name_files_of_a_folder(parts):
    splits = {"train": ["part-2.csv", "part-1.csv"], "validation": "held/*.csv"}
    corpus = load_dataset_splits(DataConfig(dataset=str(parts), splits=splits), 0)
    assert {part: split["text"][:] for part, split in corpus.splits.items()} == {
        "train": ["c", "a", "b"],
        "validation": ["d"],
    }


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ({"train": "part-9*.csv"}, "data.splits.train: no file in F is like part-9*.csv."),
        ({"train": "part-*.csv", "test": "test"}, "data.splits.test: no file in F is like test."),
        ({"train": ["../a.csv"]}, "data.splits.train: ../a.csv is not within the folder F."),
        ({"train": ["/a.csv"]}, "data.splits.train: /a.csv is not within the folder F."),
        ({"train": "*.jsonl"}, "data.splits.train: no file in F is like *.jsonl."),
        ({"train": ["part-1.csv", "b.jsonl"]}, "have two formats, and can't be one split."),
        ({"validation": "held/*.csv"}, "There is no split train to train on in F."),
    ],
)
def test_files_that_can_t_be_a_split_are_one_sentence(parts, splits, says):
    (parts / "b.jsonl").write_text("{}")
    if splits["train" if "train" in splits else "validation"] == "*.jsonl":
        (parts / "b.jsonl").unlink()
    with pytest.raises(DataError) as raised:
        load_dataset_splits(DataConfig(dataset=str(parts), splits=splits), 0)
    assert says.replace(" F", f" {parts}") in str(raised.value)


def test_a_pattern_that_nothing_is_like_is_said(parts):
    spec = DataConfig(dataset=str(parts / "*.tsv"))
    for look in (dataset_cache_key, lambda spec: load_dataset_splits(spec, 0)):
        with pytest.raises(DataError, match=r"data\.dataset: no file is like .*tsv"):
            look(spec)


def test_what_is_wrong_in_one_of_several_files_is_said_by_its_own_line(parts):
    (parts / "part-2.csv").write_text("text,label\nc,x\n,y\n")
    with pytest.raises(DataError, match=r"part-2.csv:3: there is no text"):
        load_dataset_splits(DataConfig(dataset=str(parts / "part-*.csv")), 0)


def test_every_file_that_is_read_counts_for_the_identity_and_no_other(parts):
    pattern = DataConfig(dataset=str(parts / "part-*.csv"))
    named = DataConfig(dataset=str(parts), splits={"train": "part-1.csv", "test": ["part-2.csv"]})
    before = [dataset_cache_key(pattern), dataset_cache_key(named)]
    (parts / "held" / "out.csv").write_text("text,label\nother,y\n")
    assert [dataset_cache_key(pattern), dataset_cache_key(named)] == before
    (parts / "part-2.csv").write_text("text,label\nother,y\n")
    assert not {dataset_cache_key(pattern), dataset_cache_key(named)} & set(before)


def test_how_a_compressed_file_is_read_counts_for_its_identity(tmp_path):
    csv = Path(write(tmp_path, "csv.gz"))
    before = dataset_cache_key(DataConfig(dataset=str(csv)))
    assert dataset_cache_key(DataConfig(dataset=str(csv.rename(tmp_path / "d.tsv.gz")))) != before


def test_a_folder_may_have_a_compressed_file_for_each_split(tmp_path):
    (tmp_path / "in").mkdir()
    for split in ("train", "validation"):
        Path(write(tmp_path, "jsonl.zst")).rename(tmp_path / "in" / f"{split}.jsonl.zst")
    corpus = load_dataset_splits(DataConfig(dataset=str(tmp_path / "in")), 0)
    assert [len(split) for split in corpus.splits.values()] == [40, 40]


def test_a_pattern_in_a_recipe_counts_from_the_recipe_s_folder(parts):
    (parts / "mine.yaml").write_text("name: mine\ndata: {dataset: part-*.csv}\nteacher: {model: t}")
    assert recipes.load_recipe(str(parts / "mine.yaml")).data.dataset == str(parts / "part-*.csv")
