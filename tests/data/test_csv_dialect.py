"""Files as people have them: read as plain Python and pandas read them, and said in a note."""

import csv
import gzip
import sys
from datetime import datetime

import pandas as pd
import pytest

from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.data.readers import data_files
from kdcli.errors import DataError
from kdcli.recipe.data import DataConfig

ROWS = [(f"Größe {i}… wie «Crème brûlée»", ("cat", "dog")[i % 2]) for i in range(40)]
PLAIN = [(f"text {i}", ("cat", "dog")[i % 2]) for i in range(120)]


def read(path, **spec):
    corpus = load_dataset_splits(DataConfig(dataset=str(path), **spec), 0, require_train=False)
    split = corpus.splits["train"]
    names = [corpus.label_names[i] if corpus.label_names else i for i in split["label"]]
    return [*zip(split["text"], names, strict=True)], corpus.notes


def said(notes, words):
    return [note for note in notes if words in note]


def with_stray_quotes(separator):
    """Pairs of rows, 12 apart: one begins with a quotation mark, and the other's text ends so."""
    rows = [list(row) for row in PLAIN]
    for first in (5, 45, 85):
        rows[first][0] = '"' + rows[first][0]
        rows[first + 12][0] += '"'
    lines = [separator.join(row) for row in [("text", "label"), *rows]]
    return "\n".join(lines) + "\n", [tuple(row) for row in rows]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_that_are_text_lose_no_row_of_a_tsv(tmp_path, end):
    content, rows = with_stray_quotes("\t")
    (tmp_path / "d.tsv").write_text(content, newline=end)
    # What is in the file, by plain Python.
    assert [tuple(line.split("\t")) for line in content.splitlines()[1:]] == rows
    found, notes = read(tmp_path / "d.tsv")
    assert found == rows
    assert said(notes, "d.tsv:7: quotation marks are read as text")
    assert data_files.describe_row_location([tmp_path / "d.tsv"], 5) == f"{tmp_path / 'd.tsv'}:7"


def test_a_quote_at_the_begin_of_one_text_is_text(tmp_path):
    rows = [('"Well" said he', "cat"), ("so", "dog"), ('"quoted"', "cat")]
    lines = ["text\tlabel", *("\t".join(row) for row in rows)]
    (tmp_path / "d.tsv").write_text("\n".join(lines))
    assert read(tmp_path / "d.tsv")[0] == rows


QUOTED = [
    ('a "b"', "cat"),
    ("a\tb", "dog"),
    ("a\nb", "cat"),
    ('tab\t, "quote" and\nline', "dog"),
    ("ends with a tab\t\nand goes on", "cat"),
]


@pytest.mark.parametrize("writer", ["pandas", "excel-tab", "every cell"])
def test_what_programs_put_in_quotes_is_read_as_they_wrote_it(tmp_path, writer):
    path = tmp_path / "d.tsv"
    if writer == "pandas":
        pd.DataFrame(QUOTED, columns=["text", "label"]).to_csv(path, sep="\t", index=False)
    else:
        quoting = csv.QUOTE_ALL if writer == "every cell" else csv.QUOTE_MINIMAL
        with path.open("w", newline="") as file:
            csv.writer(file, "excel-tab", quoting=quoting).writerows([("text", "label"), *QUOTED])
    found, notes = read(path)
    assert found == QUOTED
    # Rare, and what a stray quotation mark looks like: the user is to look at its line.
    assert said(notes, "d.tsv:6: a quoted cell goes over 2 lines")


def test_a_line_that_is_broken_under_both_readings_is_said(tmp_path):
    (tmp_path / "d.tsv").write_text('text\tlabel\n"a" b\tcat\nc\tdog\te\n')
    with pytest.raises(DataError, match=r"d\.tsv:2: the quotes don't match"):
        read(tmp_path / "d.tsv")


def test_a_stray_quote_that_swallows_rows_of_a_csv_is_said_by_its_line(tmp_path):
    content, _ = with_stray_quotes(",")
    (tmp_path / "d.csv").write_text(content)
    with (tmp_path / "d.csv").open(newline="") as file:
        expected = [*csv.reader(file)][1:]
    found, notes = read(tmp_path / "d.csv")
    assert [list(row) for row in found] == expected
    assert said(notes, "d.csv:7: a quoted cell goes over 13 lines that look like rows. So do 2")


def test_letters_of_several_lines_in_a_csv_are_no_matter(tmp_path):
    rows = [(f"Dear {i},\nthank you, again, for\nall\n\nYours", "cat") for i in range(3)]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "d.csv", index=False)
    found, notes = read(tmp_path / "d.csv")
    assert found == rows
    assert not said(notes, "d.csv")


@pytest.mark.parametrize("first", ["", "sep=;\r\n"])
@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "UTF-16, by its byte order mark"),
        ("utf-32", "UTF-32, by its byte order mark"),
        ("cp1252", f"read as Windows-1252: line LINE has '{ROWS[0][0].split()[0]}'"),
    ],
)
def test_what_excel_writes_is_recognised(tmp_path, encoding, note, first):
    path = tmp_path / "d.csv"
    frame = pd.DataFrame(ROWS, columns=["text", "label"])
    text = frame.to_csv(sep=";", index=False, lineterminator="\r\n")
    path.write_bytes((first + text).encode(encoding))
    found, notes = read(path)
    assert found == ROWS
    assert said(notes, "d.csv has semicolons between its cells")
    if note:
        assert said(notes, note.replace("LINE", "3" if first else "2"))
    assert len(said(notes, "d.csv")) == 1 + bool(note)
    # A place is the line that an editor shows.
    assert data_files.describe_row_location([path], 0) == f"{path}:{3 if first else 2}"
    with gzip.open(tmp_path / "d.csv.gz", "wb") as file:
        file.write(path.read_bytes())
    assert read(tmp_path / "d.csv.gz")[0] == ROWS


@pytest.mark.parametrize(
    ("name", "separator", "word"),
    [("d.csv", "\t", "tabs"), ("d.csv", "|", "bars"), ("d.tsv", ",", "commas")],
)
def test_another_separator_than_the_name_says_is_recognised(tmp_path, name, separator, word):
    rows = [(f"one, two; {text}", label) for text, label in PLAIN]
    frame = pd.DataFrame(rows, columns=["text", "label"])
    frame.to_csv(tmp_path / name, sep=separator, index=False)
    found, notes = read(tmp_path / name)
    assert found == rows
    assert said(notes, f"{name} has {word} between its cells")


@pytest.mark.parametrize(
    "rows", [[("a;b", "x;y")] * 9, [("a|b", "x"), ("c\td", "y"), ("e;f", "x")]]
)
def test_a_plain_csv_stays_as_it_is_whatever_is_in_its_cells(tmp_path, rows):
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "d.csv", index=False)
    found, notes = read(tmp_path / "d.csv")
    assert found == rows
    assert not said(notes, "d.csv")


@pytest.mark.parametrize("texts", [["one, two", "three", "a, b, c"], ["a;b", "c", "d;e"]])
def test_a_broken_row_doesn_t_make_it_another_separator(tmp_path, texts):
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(f"{t},x\n" for t in texts) + "a,b,c\n")
    with pytest.raises(DataError, match=r"d\.csv:[25]: the number of cells"):
        read(tmp_path / "d.csv")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "как проехать туда"),
        ("shift-jis", "どうやって行きますか"),
        ("gbk", "我怎么去那里"),
        ("cp1250", "zażółć gęślą jaźń"),
        ("mac-roman", "un café très cher"),
        ("cp850", "el pingüino déjà vu"),
    ],
)
def test_another_encoding_is_refused_not_guessed(tmp_path, encoding, text):
    content = "text,label\n" + "".join(f"{text} {i},x\n" for i in range(9))
    (tmp_path / "d.csv").write_bytes(content.encode(encoding))
    with pytest.raises(DataError, match=r"d\.csv:2: is not UTF-8 text"):
        read(tmp_path / "d.csv")


def test_utf_8_with_a_broken_byte_is_refused(tmp_path):
    (tmp_path / "d.csv").write_bytes("text,label\ncafé,x\n".encode() + b"caf\xe9,y\n")
    with pytest.raises(DataError, match=r"d\.csv:3: is not UTF-8 text"):
        read(tmp_path / "d.csv")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_decimal_comma_makes_a_score(tmp_path, separator):
    rows = [(f"text {i}", i / 4) for i in range(40)]
    frame = pd.DataFrame(rows, columns=["text", "stars"])
    frame.to_csv(tmp_path / "d.csv", sep=separator, decimal=",", index=False)
    corpus = load_dataset_splits(
        DataConfig(dataset=str(tmp_path / "d.csv"), label="stars"), 0, require_train=False
    )
    assert corpus.task.name == "regression"
    assert corpus.splits["train"]["label"][:] == [score for _, score in rows]
    assert said(corpus.notes, "stars: the comma in 0,0 is a decimal comma")
    head = data_files.read_first_rows([tmp_path / "d.csv"], 9)
    assert [float(row["stars"]) for row in head] == [score for _, score in rows[:9]]


def test_numbers_that_are_several_labels_stay_so(tmp_path):
    (tmp_path / "d.csv").write_text("text;label\na;1,2\nb;2,3\nc;1\n")
    corpus = load_dataset_splits(
        DataConfig(dataset=str(tmp_path / "d.csv"), label_separator=","), 0, require_train=False
    )
    names = [[corpus.label_names[i] for i in row] for row in corpus.splits["train"]["label"]]
    assert names == [["1", "2"], ["2", "3"], ["1"]]


@pytest.mark.parametrize("words", [("TRUE", "FALSE"), ("true", "false"), ("True", "False")])
def test_columns_of_truths_are_labels_however_they_are_written(tmp_path, words):
    lines = [f"text {i},{words[i % 2]},{words[i % 3 != 0]}" for i in range(6)]
    (tmp_path / "d.csv").write_text("\n".join(["text,rude,loud", *lines]))
    corpus = load_dataset_splits(
        DataConfig(dataset=str(tmp_path / "d.csv"), label=("rude", "loud")), 0, require_train=False
    )
    assert corpus.splits["train"]["label"][:4] == [[0, 1], [], [0], [1]]


BOOK = {
    "text": ["one", "two\nlines", '"three"', "007", "five, six"],
    "id": [1, 2, 3, 4, 5],
    "whole": [1.0, 2.0, 3.0, 4.0, 5.0],
    "half": [0.5, 1.0, 1.5, 2.0, 2.5],
    "flag": [True, False, True, False, True],
    "day": [datetime(2024, 3, 1)] * 4 + [datetime(2024, 3, 1, 12, 30)],
    "gap": ["a", None, "", "b", None],
}


def test_a_workbook_s_cells_are_text_as_excel_shows_them(tmp_path):
    pd.DataFrame(BOOK).to_excel(tmp_path / "d.xlsx", index=False)
    rows = data_files.read_first_rows([tmp_path / "d.xlsx"], 9)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert columns == {
        "text": BOOK["text"],
        "id": ["1", "2", "3", "4", "5"],
        "whole": ["1", "2", "3", "4", "5"],
        "half": ["0.5", "1", "1.5", "2", "2.5"],
        "flag": ["TRUE", "FALSE", "TRUE", "FALSE", "TRUE"],
        "day": ["2024-03-01"] * 4 + ["2024-03-01 12:30:00"],
        "gap": ["a", "", "", "b", ""],
    }


@pytest.mark.parametrize(("column", "labels"), [("id", "12345"), ("flag", ["FALSE", "TRUE"])])
def test_a_workbook_is_data(tmp_path, column, labels):
    pd.DataFrame(BOOK).to_excel(tmp_path / "d.xlsx", index=False)
    corpus = load_dataset_splits(
        DataConfig(dataset=str(tmp_path / "d.xlsx"), label=column), 0, require_train=False
    )
    assert corpus.label_names == tuple(labels)
    assert corpus.splits["train"]["text"][:] == BOOK["text"]
    scores = load_dataset_splits(
        DataConfig(dataset=str(tmp_path / "d.xlsx"), label="half"), 0, require_train=False
    )
    assert scores.splits["train"]["label"][:] == BOOK["half"]
    with pytest.raises(DataError, match=r"d\.xlsx, row 3: there is no label"):
        read(tmp_path / "d.xlsx", label="gap")


def test_a_folder_of_workbooks_has_its_splits_by_their_names(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("train", "validation"):
        pd.DataFrame(PLAIN, columns=["text", "label"]).to_excel(
            folder / f"{name}.xlsx", index=False
        )
    assert [*load_dataset_splits(DataConfig(dataset=str(folder)), 0).splits] == [
        "train",
        "validation",
    ]


def test_only_one_sheet_of_a_workbook_may_have_rows(tmp_path):
    frame = pd.DataFrame(PLAIN, columns=["text", "label"])
    with pd.ExcelWriter(tmp_path / "d.xlsx") as book:
        pd.DataFrame().to_excel(book, sheet_name="empty")
        frame.to_excel(book, sheet_name="mine", index=False)
    assert read(tmp_path / "d.xlsx")[0] == PLAIN
    with pd.ExcelWriter(tmp_path / "two.xlsx") as book:
        for name in ("mine", "yours"):
            frame.to_excel(book, sheet_name=name, index=False)
    with pytest.raises(DataError, match=r"two\.xlsx has several sheets with rows: mine, yours"):
        read(tmp_path / "two.xlsx")


def test_a_workbook_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    pd.DataFrame(BOOK).to_excel(tmp_path / "d.xlsx", index=False)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"pip install 'kdcli\[excel\]'"):
        read(tmp_path / "d.xlsx")


@pytest.mark.parametrize("name", ["d.xls", "d.ods"])
def test_another_spreadsheet_says_what_to_save_it_as(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xd0\xcf\x11\xe0")
    with pytest.raises(DataError, match=r"Save it as \.xlsx or as CSV"):
        read(tmp_path / name)
