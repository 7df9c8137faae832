"""Every way for a file to be wrong: one sentence with file and line, and nothing written."""

import gzip
import json
import os
import re
import zipfile

import forked
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hub_server import HubServer

from kdcli import resources
from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.errors import ResourceError
from kdcli.pipeline import preflight
from kdcli.progress import SilentReporter
from kdcli.recipe.data import DataConfig
from kdcli.recipe.schema import Recipe

ROWS = [(f"text number {i}", ("cat", "dog")[i % 2]) for i in range(40)]
OBJECTS = [json.dumps({"text": text, "label": label}) for text, label in ROWS]


def csv(rows=ROWS, header="text,label"):
    return "\n".join([header, *(f"{text},{label}" for text, label in rows), ""])


def line_12(text):
    """A csv with a line of its own in the middle."""
    lines = csv().splitlines()
    return "\n".join([*lines[:11], text, *lines[11:], ""])


def line_17(text):
    """A jsonl with a line of its own in the middle."""
    return "\n".join([*OBJECTS[:16], text, *OBJECTS[16:], ""])


def as_parquet(rows=ROWS, names=("text", "label")):
    data = Dataset.from_dict({name: [row[i] for row in rows] for i, name in enumerate(names)})
    return lambda path: data.to_parquet(str(path))


def one_id_too_many(path):
    data = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    table = data.cast_column("label", ClassLabel(names=["cat", "dog"])).data.table
    pq.write_table(table.set_column(1, "label", [[0, 7]]), path)


def latin_in_parquet(path):
    texts = pa.array([b"a", "caf\xe9".encode("latin-1")]).view(pa.string())
    pq.write_table(pa.table({"text": texts, "label": ["cat", "dog"]}), path)


def cut_short(path):
    as_parquet()(path)
    path.write_bytes(path.read_bytes()[:500])


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../train.csv", csv())


def gzipped(path, content=None):
    path.write_bytes(gzip.compress(csv().encode() if content is None else content))


def zstd(content):
    def write(path):
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(content.encode())

    return write


def ended_early(path):
    """More than a block of rows, without their last ones."""
    gzipped(path, csv(ROWS * 500).encode())
    path.write_bytes(path.read_bytes()[:-99])


def as_arrow(rows, stream=False):
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(("text", "label"))})

    def write(path):
        new = pa.ipc.new_stream if stream else pa.ipc.new_file
        with new(str(path), table.schema) as writer:
            writer.write_table(table)

    return write


def arrow_cut_short(path):
    as_arrow(ROWS, stream=True)(path)
    path.write_bytes(path.read_bytes()[:200])


# File, what is in it, and what is said after the file's path.
BROKEN = {
    "nothing": ("d.csv", "", " is empty: it holds no rows"),
    "nothing in jsonl": ("d.jsonl", "", " is empty: it holds no rows"),
    "nothing in json": ("d.json", "[]", " is empty: it holds no rows"),
    "nothing in parquet": ("d.parquet", "", " can't be read: .*0 bytes"),
    "no rows in parquet": ("d.parquet", as_parquet([]), " is empty: it holds no rows"),
    "blank lines": ("d.csv", "\n\n", " is empty: it holds no rows"),
    "a header only": ("d.csv", "text,label\n", " is empty: it holds no rows"),
    "a cell too many": ("d.csv", line_12("a,cat,b"), ":12: the number of cells is 3, .* 2. Write"),
    "one in the first row": ("d.csv", csv([("a,b", "cat")]), ":2: the number of cells is 3"),
    "a cell too few": ("d.csv", line_12("a"), ":12: the number of cells is 1, .* 2. Write"),
    "a late one": ("d.csv", csv(ROWS * 500) + "a\n", ":20002: the number of cells is 1"),
    "an open quote": ("d.csv", line_12('"a,cat'), ":12: the quotes don't match"),
    "a quote too few": ("d.csv", csv([('"a" b', "cat")]), ":2: the quotes"),
    "a Russian code page": ("d.csv", line_12("привет,cat").encode("cp1251"),
                            ":12: is not UTF-8 text. Save it"),
    "Latin-1 in jsonl": ("d.jsonl", line_17('{"text": "é"}').encode("latin-1"), ":17: is not"),
    "UTF-16 cut short": ("d.csv", csv().encode("utf-16")[:-1], ":41: is not UTF-16 text"),
    "a NUL": ("d.csv", line_12("a\0b,cat"), ":12: holds a NUL byte"),
    "NULs": ("d.csv", "\0" * 1000, ":1: holds a NUL byte"),
    "a NUL in jsonl": ("d.jsonl", line_17("\0"), ":17: holds a NUL byte"),
    "an empty text": ("d.csv", line_12(",cat"), ":12: there is no text"),
    "a blank text": ("d.csv", line_12('"  ",cat'), ":12: there is no text"),
    "one after a long row": ("d.csv", 'text,label\n"a\nb\nc",cat\n,dog\n', ":5: there is no text"),
    "a null text": ("d.jsonl", line_17('{"text": null, "label": "cat"}'), ":17: there is no text"),
    "one in parquet": ("d.parquet", as_parquet([("a", "cat"), (None, "dog")]), ", row 2: there is"),
    "a number for a text": ("d.jsonl", line_17('{"text": 5, "label": "cat"}'), ":17: text is 5"),
    "numbers in parquet": ("d.parquet", as_parquet([(1, "cat")]), ".*Column text .*holds no text"),
    "half a character": ("d.jsonl", line_17(r'{"text": "\ud800"}'), ":17: text holds half a char"),
    "an empty label": ("d.csv", line_12("a,"), ":12: there is no label. Label it"),
    "a blank label": ("d.csv", line_12('a," "'), ":12: there is no label"),
    "a null label": ("d.jsonl", line_17('{"text": "a", "label": null}'), ":17: there is no label"),
    "no label at all": ("d.jsonl", line_17('{"text": "a"}'), ":17: there is no label"),
    "a list for a label": ("d.jsonl", line_17('{"text": "a", "label": []}'), r":17: label is \[\]"),
    "an id without a name": ("d.parquet", one_id_too_many, ", row 2: the label 7 is none of"),
    "a fraction among names": ("d.jsonl", line_17('{"text": "a", "label": 1.5}'),
                               ":17: label is 1.5, not a name"),
    "numbers with a point": ("d.csv", csv([("a", 1.0), ("b", 2.0)]), ":2: label is 1.0: is that a"),
    "a score beyond float32": (
        "d.csv",
        csv([("a", 1.5), ("b", 1e300), ("c", 2.5)]),
        r":3: label is 1e\+300",
    ),
    "a score missing": ("d.csv", csv([("a", 1.5), ("b", "nan"), ("c", 2.5)]), ":3: label is nan"),
    "a list that is none": ("d.jsonl", '{"text": "a", "label": ["b"]}\n{"text": "c", "label": "d"}',
                            ":2: label is 'd', not a list"),
    "no list at all": ("d.jsonl", '{"text": "a", "label": ["b"]}\n{"text": "c"}',
                       ":2: there is no list of labels"),
    "0 and 1 in a list": ("d.jsonl", '{"text": "a", "label": [0, 1, 0]}\n'
                          '{"text": "b", "label": [0]}', ":1: .*the label 0 twice"),
    "a list and a name": ("d.csv", csv([("a", "['b']"), ("c", "d")]), ":3: label is 'd', and"),
    "a list and nothing": ("d.csv", csv([("a", "['b']"), ("c", "")]), ":3: there is no label"),
    "a list of lists": ("d.parquet", as_parquet([("a", [["b"]])]), ", row 1: .*lists of lists"),
    "a fraction in a list": ("d.jsonl", '{"text": "a", "label": [0.5]}', ":1: label holds 0.5"),
    "a column missing": ("d.csv", csv(header="body,label"), "data.text: .*text in F.*body"),
    "one for the label": ("d.csv", csv(header="text,intent"), "data.label: .*label in F.*intent"),
    "one in jsonl": ("d.jsonl", '{"body": "a", "label": "b"}', "data.text: .*text in F.*body"),
    "one in parquet too": ("d.parquet", as_parquet(names=("body", "label")),
                           "data.text: .*text in F.*body"),
    "a column twice": ("d.csv", csv(header="text,text"), ":1: the column text is there twice"),
    "a key twice": ("d.jsonl", line_17('{"text": "a", "text": "b"}'), ":17: .*text is there twice"),
    "Latin-1 in parquet": ("d.parquet", latin_in_parquet, " can't be read: .*Invalid UTF8 .* 1"),
    "parquet cut short": ("d.parquet", cut_short, " can't be read: .*footer.*Is it whole?"),
    "a broken line": ("d.jsonl", line_17('{"text": "a'), ":17: is not JSON: "),
    "one in a list": ("d.json", json.dumps([{}] * 40, indent=0)[:-60], ":[0-9]+: is not JSON"),
    "a brace too many": ("d.jsonl", line_17(OBJECTS[0] + "}"), ":17: is not JSON: Extra data"),
    "a list for a row": ("d.jsonl", line_17('["a"]'), ":17: is no JSON object. A row is"),
    "a number for a row": ("d.json", "[5]", ", item 1: is no JSON object"),
    "no JSON at all": ("d.json", "text", ":1: is not JSON"),
    "depth": ("d.jsonl", line_17('{"text": ' + "[" * 100_000), ":17: can't be read: .*recursion"),
    "another kind": ("d.docx", "text", " has no known format. Known formats: .csv, .tsv,"),
    "an old workbook": ("d.xls", "text", " has no known format. Save it as .xlsx or as CSV."),
    "no workbook": ("d.xlsx", "text", " can't be read: File is not a zip file. Is it whole?"),
    "no workbook either": ("d.xlsx", zipped, " can't be read: "),
    "an archive": ("d.zip", zipped, " has no known format"),
    "one by another name": ("d.csv", zipped, ":1: (is not UTF-8 text|holds a NUL byte)"),
    "a compressed archive": ("d.zip.gz", gzipped, " has no known format"),
    "compressed parquet": ("d.parquet.gz", gzipped, " has no known format"),
    "no gzip": ("d.csv.gz", csv(), ":1: can't be read on: zlib inflate failed.* Is it whole?"),
    "gzip cut short": ("d.csv.gz", ended_early, ":[0-9]{4,}: can't be read on: Truncated"),
    "no zstd": ("d.jsonl.zst", csv(), ":1: can't be read on: ZSTD decompress failed"),
    "a compressed long row": ("d.csv.zst", zstd(line_12("a,cat,b")), ":12: the number of cells"),
    "a compressed broken line": ("d.jsonl.zst", zstd(line_17("{")), ":17: is not JSON: "),
    "a compressed blank text": ("d.csv.zst", zstd(line_12('"  ",cat')), ":12: there is no text"),
    "a compressed broken byte": ("d.tsv.gz", lambda path: gzipped(path, b"a\n\xc3\xa9\n\xe9"),
                                 ":3: is not UTF-8"),
    "no Arrow": ("d.arrow", csv(), " can't be read: "),
    "nothing in Arrow": ("d.arrow", "", " can't be read: "),
    "no rows in Arrow": ("d.arrow", as_arrow([]), ".* (is empty: it holds no rows|holds no text)"),
    "Arrow cut short": ("d.arrow", arrow_cut_short, " can't be read: "),
    "a null text in Arrow": ("d.arrow", as_arrow([("a", "cat"), (None, "dog")]), ", row 2: there"),
    "numbers in Arrow": ("d.arrow", as_arrow([(1, "cat")]), ".*Column text .*holds no text"),
    "gzip by another name": ("d.csv", gzipped, ":1: is not UTF-8 text"),
}  # fmt: skip

# What can be measured on, but not trained on.
UNFIT = {
    "one class": (csv([(text, "cat") for text, _ in ROWS]), "Column label of F .*class only .cat"),
    "one text": (csv(ROWS[:1]), "Column label of F .*one class only .cat.. Are these"),
    "one text of a class": (csv([*ROWS, ("a", "cow")]), ".*the label 'cow' has only one text"),
    "too few to share": (csv(ROWS[:4]), "No validation .* of the 4 texts of F"),
    "no label but -1": (csv([(text, -1) for text, _ in ROWS]), ":2: there is no label"),
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def recipe(tmp_path, tiny_backbone):
    def write(data, model=tiny_backbone, fine_tune="{epochs: 1}"):
        path = tmp_path / "recipe.yaml"
        path.write_text(
            f"name: mine\ndata: {{dataset: {data}}}\n"
            f"teacher: {{model: {model}, fine_tune: {fine_tune}}}\n"
        )
        return path

    return write


def assert_says(said, path, says):
    places = re.escape(str(path)) if says[0] in " :," else ""
    assert re.match(places + says.replace("in F", f"in {path}").replace("of F", f"of {path}"), said)


@pytest.mark.parametrize(("name", "content", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_said_by_its_line(
    refuses, file, recipe, tiny_teacher, name, content, says
):
    path = file(name, content)
    said = refuses("distill", recipe(path), "--dry-run")
    assert_says(said, path, says)
    assert refuses("distill", recipe(path), "--quiet") == said
    assert refuses("evaluate", tiny_teacher, "--data", path, "--quiet") == said


@pytest.mark.parametrize(("content", "says"), UNFIT.values(), ids=UNFIT)
def test_what_nothing_can_be_learnt_from_is_said(refuses, file, recipe, content, says):
    path = file("d.csv", content)
    said = refuses("distill", recipe(path), "--dry-run")
    assert_says(said, path, says)
    assert refuses("distill", recipe(path)) == said


@pytest.mark.parametrize("name", ["nothing.csv", "nothing", "a/b/nothing"])
def test_what_isn_t_there_is_said(refuses, recipe, tiny_teacher, tmp_path, name):
    said = refuses("distill", recipe(tmp_path / name))
    assert said.startswith(f"There is no data set {tmp_path / name}: no such file or folder")
    assert refuses("evaluate", tiny_teacher, "--data", tmp_path / name, "--quiet") == said


def test_what_is_neither_file_nor_folder_is_said(refuses, recipe, tmp_path):
    os.mkfifo(tmp_path / "d.csv")
    said = refuses("distill", recipe(tmp_path / "d.csv"))
    assert said == f"{tmp_path / 'd.csv'} is neither a file nor a folder."


FOLDERS = {
    "no data": ({"d/notes": "nothing"}, "d holds no data files. A folder holds files that are"),
    "nothing": ({"d/.hidden": ""}, "d holds no data files. A folder holds files that are"),
    "two kinds": ({"d/train.csv": csv(), "d/train.jsonl": OBJECTS[0]}, ".* have two formats, and"),
    "an archive": ({"d/train.zip": zipped}, "d/train.zip has no known format"),
    "a workbook beside": ({"d/train.csv": csv(), "d/test.xls": ""}, "d/test.xls has no known .*"
                          "Save it as .xlsx or as CSV."),
    "gzip": ({"d/train.csv.gz": "a"}, "d/train.csv.gz:1: can't be read on: "),
    "texts alone": ({"d/train.txt": "a\nb\n"}, "d/train.txt has no known format. Known"),
    "a broken card": ({"d/train.csv": csv(), "d/README.md": "---\na: [\n---\n"},
                      "d/README.md: its metadata are no YAML"),
    "a card that leads out": ({"train.csv": csv(), "d/README.md":
                               "---\nconfigs: [{config_name: a, data_files: ../train.csv}]\n---\n"},
                              "d/README.md names a file outside its folder: .*train.csv"),
    "a card that leads away": ({"d/train.csv": csv(), "d/README.md":
                                "---\nconfigs: [{config_name: a, data_files: "
                                "'http://127.0.0.1:9/train.csv'}]\n---\n"},
                               "d/README.md names a file outside its folder: http"),
    "a broken split": ({"d/train.csv": csv(), "d/test.csv": csv() + "a\n"}, "d/test.csv:42: the"),
    "a split without text": ({"d/train.csv": csv(), "d/test.csv": csv(header="a,label")},
                             "data.text: there is no column text in .*d/test.csv.*: a, label."),
    "a broken data set": ({"d/state.json": "{}"}, "d/state.json is damaged"),
    "a split of no data set": ({"d/dataset_dict.json": "{"},
                               "d/dataset_dict.json is damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("contents", "says"), FOLDERS.values(), ids=FOLDERS)
def test_a_broken_folder_is_said_by_its_file(
    refuses, file, recipe, tiny_teacher, tmp_path, contents, says
):
    for name, content in contents.items():
        file(name, content)
    said = refuses("distill", recipe(tmp_path / "d"))
    assert re.match(f"({re.escape(str(tmp_path))}/)?{says}", said), said
    assert refuses("evaluate", tiny_teacher, "--data", tmp_path / "d", "--quiet") == said


def test_a_loading_script_is_refused_and_never_run(refuses, file, recipe, tmp_path):
    file("d/d.py", f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    file("d/train.csv", csv())
    said = refuses("distill", recipe(tmp_path / "d"))
    assert said.startswith(f"{tmp_path / 'd'} is loaded by a script, d.py, and scripts are not run")


def test_a_loading_script_on_the_hub_is_refused_and_never_run(tmp_path, tiny_teacher):
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()".encode()
    (tmp_path / "here").mkdir()
    with HubServer() as hub:
        hub.add_repo("dataset", "owner/texts", {"texts.py": code, "train.csv": csv().encode()})
        env = {**os.environ, **hub.env(), "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        arguments = ("evaluate", tiny_teacher, "--data", "owner/texts")
        done = forked.kd(*arguments, cwd=tmp_path / "here", env=env)
    assert done.returncode == 2, done.stderr
    assert "The data set owner/texts can't be read: Dataset scripts are no longer" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "here").iterdir())


def test_a_label_that_the_teacher_doesn_t_know_is_said(refuses, file, recipe, tiny_teacher):
    path = file("d.csv", csv())
    said = refuses("distill", recipe(path, tiny_teacher, "null"), "--quiet")
    assert said.startswith("The model doesn't know the label 'cat': the data has cat, dog, the")
    measured = refuses("evaluate", tiny_teacher, "--data", path, "--quiet")
    assert measured == f"{tiny_teacher.name}: {said}"


def test_what_is_to_be_measured_is_looked_for_before_anything_is_trained(refuses, file, recipe):
    path = recipe(file("d.csv", csv()))
    said = refuses("distill", path, "--quiet", "--set", "evaluate.out_of_scope=oos")
    assert said.startswith("evaluate.out_of_scope: the data has no label oos. Its labels: cat, dog")
    said = refuses("distill", path, "--quiet", "--set", "evaluate.splits=[test]")
    assert "evaluate.splits" in said
    assert "no split test" in said


def test_outputs_that_no_memory_holds_are_refused_beforehand(
    file, tiny_backbone, tmp_path, monkeypatch
):
    names = [str(i) for i in range(900)]
    kinds = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = {"text": ["a", "b"] * 500, "label": [0, 1] * 500}
    Dataset.from_dict(rows, kinds).to_parquet(str(tmp_path / "d.parquet"))
    recipe = Recipe.model_validate(
        {
            "name": "mine",
            "data": {"dataset": str(tmp_path / "d.parquet")},
            "teacher": {"model": str(tiny_backbone), "fine_tune": {}},
        }
    )
    monkeypatch.setattr(resources, "free_memory_bytes", lambda: 3.7e6)
    assert (
        len(preflight.validate_inputs(recipe, SilentReporter()).dataset_splits.label_names) == 900
    )
    monkeypatch.setattr(resources, "free_memory_bytes", lambda: 3.5e6)
    with pytest.raises(ResourceError, match="about 1,000 texts and 900 labels takes"):
        preflight.validate_inputs(recipe, SilentReporter())


def texts_of(path):
    splits = load_dataset_splits(DataConfig(dataset=str(path)), 0).splits.values()
    return sorted(text for split in splits for text in split["text"])


FINE = {
    "a byte order mark": ("d.csv", "\ufeff" + csv()),
    "one in tsv": ("d.tsv", "\ufeff" + csv().replace(",", "\t")),
    "one in jsonl": ("d.jsonl", "\ufeff" + "\n".join(OBJECTS)),
    "one in json": ("d.json", f"\ufeff\n[{','.join(OBJECTS)}]"),
    "Windows line ends": ("d.csv", csv().replace("\n", "\r\n")),
    "old line ends": ("d.csv", csv().replace("\n", "\r")),
    "no last line end": ("d.csv", csv().rstrip()),
    "blank lines": ("d.csv", csv().replace("\n", "\n\n")),
    "blank lines in jsonl": ("d.jsonl", "\n\n".join(OBJECTS)),
    "a suffix in capitals": ("d.CSV", csv()),
}


@pytest.mark.parametrize(("name", "content"), FINE.values(), ids=FINE)
def test_what_other_machines_write_is_read_all_the_same(file, name, content):
    assert texts_of(file(name, content)) == sorted(text for text, _ in ROWS)


def test_a_text_of_a_megabyte_is_read_whole(file):
    long = "x " * 500_000
    assert long in texts_of(file("d.csv", csv([*ROWS, (long, "cat")])))


def test_in_csv_every_text_is_text(file):
    numbers = [(f"00{i}", label) for i, (_, label) in enumerate(ROWS)]
    assert texts_of(file("d.csv", csv(numbers))) == sorted(text for text, _ in numbers)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("1", "0"), ("0", "1")),
        (("10", "2"), ("2", "10")),
        (("1011", "100000"), ("1011", "100000")),
        (("1", "-1"), ("-1", "1")),
        ((" 1", "0 "), ("0", "1")),
        (("007", "7"), ("007", "7")),
        (("1", "oos"), ("1", "oos")),
        (("true", "false"), ("false", "true")),
    ],
)
def test_labels_in_csv_are_numbers_only_where_they_are_written_so(file, names, labels):
    rows = [(f"text {i}", names[i % 2]) for i in range(40)]
    assert (
        load_dataset_splits(DataConfig(dataset=str(file("d.csv", csv(rows)))), 0).label_names
        == labels
    )


def test_labels_that_are_numbers_in_one_split_only_are_names(file):
    file("d/train.csv", csv([(f"text {i}", i % 2) for i in range(10)] + [("b", "oos")]))
    path = file("d/validation.csv", csv([("a", 1)]))
    corpus = load_dataset_splits(DataConfig(dataset=str(path.parent)), 0)
    assert corpus.label_names == ("0", "1", "oos")
    assert corpus.splits["validation"]["label"][:] == [1]


def test_what_a_folder_s_card_says_of_its_files_holds(file):
    path = file("train.csv", "text;label\n" + "a;0\nnull;1\n" * 10)
    file(
        "README.md",
        """---
configs:
- {config_name: default, sep: ";", data_files: train.csv}
dataset_info:
  features:
  - {name: text, dtype: string}
  - {name: label, dtype: {class_label: {names: {"0": bad, "1": good}}}}
---""",
    )
    corpus = load_dataset_splits(DataConfig(dataset=str(path.parent)), 0)
    assert corpus.label_names == ("bad", "good")
    assert set(corpus.splits["train"]["text"]) == {"a", "null"}
