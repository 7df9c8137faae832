"""What cells of labels hold, and what is made of them: the same as plain Python makes."""

import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.errors import DataError
from kdcli.recipe.data import DataConfig
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

ONE = SINGLE_LABEL.name


@pytest.fixture
def read(tmp_path):
    """Loads columns as a folder of files, a split each, without a cut."""

    def run(kind="csv", column="label", task=None, separator=None, **splits):
        for split, cells in splits.items():
            rows = cells if isinstance(cells, dict) else {column: cells}
            count = len(next(iter(rows.values())))
            rows = {"text": [f"{split} text {i}" for i in range(count)], **rows}
            data = Dataset.from_dict(rows)
            write = {"csv": data.to_csv, "parquet": data.to_parquet}
            if kind == "jsonl":
                lines = [json.dumps(row) for row in data.to_list()]
                (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
            else:
                write[kind](str(tmp_path / f"{split}.{kind}"))
        spec = {"dataset": str(tmp_path), "label": column, "task": task}
        return load_dataset_splits(
            DataConfig(**spec, label_separator=separator), 0, require_train=False
        )

    return run


def names_of(corpus, split="train"):
    """Each row's label by its name, or its labels."""
    found = corpus.splits[split]["label"][:]
    if corpus.task is MULTI_LABEL:
        return [{corpus.label_names[i] for i in row} for row in found]
    return [corpus.label_names[i] for i in found]


def said(corpus, *words):
    return any(all(word in note for word in words) for note in corpus.notes)


CODES = [1011, 47110, 62010, 86211, 1011]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("values", [CODES, [1, 5, 3, 2, 4], [0, 2, 1], [150_000, 9, 10]])
def test_whole_numbers_are_names_in_the_order_of_numbers(read, kind, values):
    corpus = read(kind, train=values)
    assert corpus.label_names == tuple(map(str, sorted(set(values))))
    assert names_of(corpus) == [*map(str, values)]
    assert not corpus.labels_are_ordered


def test_a_number_that_train_lacks_is_found_in_the_other_splits(read):
    corpus = read(train=[0, 1, 3], validation=[0, 1], test=[2])
    assert corpus.label_names == ("0", "1", "2", "3")
    assert names_of(corpus, "test") == ["2"]


def test_minus_one_beside_other_numbers_is_a_label_and_that_is_said(read):
    corpus = read(train=[-1, 0, 1, -1])
    assert names_of(corpus) == ["-1", "0", "1", "-1"]
    assert said(corpus, "-1")


def test_a_split_of_minus_one_alone_has_no_labels(read):
    corpus = read(train=[0, 1, 0], test=[-1, -1])
    assert "test" not in corpus.splits
    assert corpus.label_names == ("0", "1")
    assert said(corpus, "test", "no labels")


FRACTIONS = ["62.01", "62.10", "47.11", "62.01"]


def test_codes_with_a_point_are_names_where_the_recipe_says_so(read):
    corpus = read(train=FRACTIONS, test=["62"], task=ONE)
    assert names_of(corpus) == FRACTIONS
    assert corpus.label_names == ("47.11", "62", "62.01", "62.10")


def test_without_a_word_fractions_are_scores_and_that_is_said(read):
    corpus = read(train=FRACTIONS)
    assert corpus.task is REGRESSION
    assert said(corpus, "data.task", ONE)


def test_whole_numbers_that_gaps_made_fractions_are_named_as_numbers(read):
    corpus = read("parquet", train=[1.0, 3.0, 2.0], test=[1.0, 2.5], task=ONE)
    assert corpus.label_names == ("1", "2", "2.5", "3")
    with pytest.raises(DataError, match="row 2: there is no label"):
        read("parquet", train=[1.0, float("nan")], test=[2.5], task=ONE)


def test_fractions_in_one_split_and_names_in_another_are_refused(read):
    with pytest.raises(DataError, match="names in others"):
        read(train=["1.5", "2.5"], test=["a"])


HOT = [[0, 1], [1, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("to", [int, float, bool])
def test_lists_of_0_and_1_are_multi_hot_and_that_is_said(read, kind, to):
    lists = [[to(value) for value in row] for row in HOT]
    corpus = read(kind, train=[str(row) for row in lists] if kind == "csv" else lists)
    expected = [{f"LABEL_{i}" for i, there in enumerate(row) if there} for row in HOT]
    assert corpus.label_names == ("LABEL_0", "LABEL_1")
    assert names_of(corpus) == expected
    assert said(corpus, "0 or 1")


def test_a_list_of_another_length_among_multi_hot_ones_is_refused(read):
    with pytest.raises(DataError, match=r"test.jsonl:2: .*0, 1, 0"):
        read("jsonl", train=HOT, test=[[0, 1], [0, 1, 0]])
    with pytest.raises(DataError, match=r"train.jsonl:5: "):
        read("jsonl", train=[*HOT, []], test=HOT)


@pytest.mark.parametrize(
    "lists", [[[0], [1], [0, 1]], [[0, 1], [1, 2]], [[0], [1]], [["a", "b"], ["b", "c"]]]
)
def test_lists_of_labels_are_sets_as_before(read, lists):
    assert names_of(read("jsonl", train=lists)) == [set(map(str, row)) for row in lists]


def test_lists_of_class_labels_are_sets_whatever_their_length(tmp_path):
    from datasets import Features, List, Value

    kinds = Features({"text": Value("string"), "label": List(ClassLabel(names=["a", "b"]))})
    data = Dataset.from_dict({"text": ["t", "u"], "label": [[0, 1], [1, 0]]}, kinds)
    DatasetDict({"train": data}).save_to_disk(str(tmp_path / "d"))
    corpus = load_dataset_splits(DataConfig(dataset=str(tmp_path / "d")), 0, require_train=False)
    assert names_of(corpus) == [{"a", "b"}] * 2
    assert corpus.labels_are_ordered


LISTS = [["app", "card"], ["card"], [], ["fee, late", "app"]]


@pytest.mark.parametrize("write", [str, json.dumps, tuple], ids=["repr", "json", "tuple"])
def test_lists_that_are_written_as_text_are_label_sets(read, write):
    corpus = read(train=[str(write(row)) for row in LISTS])
    assert corpus.task is MULTI_LABEL
    assert names_of(corpus) == [set(row) for row in LISTS]
    assert said(corpus, "written as text")


def test_a_separator_for_lists_that_are_written_as_text_is_refused(read):
    with pytest.raises(DataError, match=r"train.csv:2: .*label_separator"):
        read(train=[str(row) for row in LISTS], separator=",")


def test_whitespace_around_labels_is_no_part_of_them_and_is_counted(read, tmp_path):
    corpus = read(train=["fee", "fee ", "\u00a0card", "FEE", "fee"])
    assert names_of(corpus) == ["fee", "fee", "card", "FEE", "fee"]
    assert said(corpus, "Whitespace", "2 labels")
    assert said(corpus, "'FEE'", "'fee'")
    (tmp_path / "train.csv").unlink()
    lists = read("jsonl", train=[["fee ", "card"], ["card", "app"], []])
    assert names_of(lists) == [{"fee", "card"}, {"card", "app"}, set()]
    assert said(lists, "Whitespace", "1 label ")


def test_labels_without_peculiarities_get_no_note(read):
    assert read(train=["fee", "card", "fee"]).notes == ()


@pytest.mark.parametrize(
    ("no", "yes"), [("FALSE", "TRUE"), ("false", " true"), ("0.0", "1.0"), ("False", "True")]
)
def test_columns_of_true_and_false_are_flags_in_any_case(read, no, yes):
    cells = {"rude": [yes, no, yes], "loud": [no, no, yes]}
    corpus = read(train=cells, column=("rude", "loud"))
    assert names_of(corpus) == [{"rude"}, set(), {"rude", "loud"}]


def test_texts_without_any_label_have_no_outputs(read):
    corpus = read("jsonl", train=[[], []])
    truth = corpus.ground_truth_labels(corpus.splits["train"], [], 3)
    assert corpus.task is MULTI_LABEL
    assert truth.tolist() == [[False] * 3] * 2
