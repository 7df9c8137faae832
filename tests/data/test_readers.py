"""Readers of formats that are not built in."""

from importlib.metadata import EntryPoint, EntryPoints

import pyarrow as pa
import pytest

from kdcli import plugins
from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.data.readers import registry
from kdcli.data.readers.base import ColumnarReader, FolderReader, RowReader
from kdcli.errors import DataError, UserError
from kdcli.recipe.data import DataConfig

ROWS = [(f"text number {i} {name}", name) for i in range(20) for name in ("cat", "dog")]


class PipeReader(RowReader):
    """`text|label` lines without a header."""

    suffixes = (".pipe",)
    cells_are_text = True

    def iterate_rows(self, path, notes):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            text, label = line.split("|")
            yield f"{path}:{number}", {"text": text, "label": label}


class HalvesReader(ColumnarReader):
    """The texts in the first half of the lines, their labels in the second."""

    suffixes = (".halves",)

    def column_names(self, path):
        return ["label", "text"]

    def read_table(self, path, columns):
        lines = path.read_text().splitlines()
        half = len(lines) // 2
        return pa.table({"text": lines[:half], "label": lines[half:]}).select(columns)

    def count_rows(self, path):
        return len(path.read_text().splitlines()) // 2

    def read_first_rows(self, path, count):
        return self.read_table(path, ["label", "text"]).slice(0, count)


class ChestReader(FolderReader):
    """A folder with one file, `texts`."""

    def accepts(self, folder):
        return folder.suffix == ".chest"

    def load(self, folder):
        from datasets import Dataset

        lines = [line.split("|") for line in (folder / "texts").read_text().splitlines()]
        return Dataset.from_dict(
            dict(zip(("text", "label"), zip(*lines, strict=True), strict=True))
        )


@pytest.fixture
def installed(monkeypatch):
    """Reader classes as if a package offered them, by the name of their entry point."""
    classes = {"pipe": "PipeReader", "halves": "HalvesReader", "chest": "ChestReader"}
    offered = {
        name: EntryPoint(name, f"{__name__}:{value}", registry.READER_GROUP)
        for name, value in classes.items()
    }
    for name, entry_point in offered.items():
        loaded = globals()[classes[name]]
        object.__setattr__(entry_point, "load", lambda loaded=loaded: loaded)

    def entry_points(group, name=None):
        assert group == registry.READER_GROUP
        return EntryPoints(e for n, e in offered.items() if name in (None, n))

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return offered


@pytest.fixture
def files(tmp_path):
    pipe = "\n".join("|".join(row) for row in ROWS)
    (tmp_path / "d.pipe").write_text(pipe)
    texts, labels = zip(*ROWS, strict=True)
    (tmp_path / "d.halves").write_text("\n".join(texts + labels))
    (tmp_path / "d.chest").mkdir()
    (tmp_path / "d.chest" / "texts").write_text(pipe)
    return tmp_path


@pytest.mark.parametrize("name", ["d.pipe", "d.halves", "d.chest"])
def test_a_package_adds_a_format(files, installed, name):
    data = load_dataset_splits(DataConfig(dataset=str(files / name)), 0)
    assert data.label_names == ("cat", "dog")
    assert sum(map(len, data.splits.values())) == len(ROWS)


def test_a_process_registers_a_reader(files, monkeypatch):
    monkeypatch.setattr(registry, "_FILE_READERS", [*registry._FILE_READERS])
    data_config = DataConfig(dataset=str(files / "d.pipe"))
    with pytest.raises(DataError):
        load_dataset_splits(data_config, 0)
    registry.register_reader(PipeReader())
    assert load_dataset_splits(data_config, 0).label_names == ("cat", "dog")
    assert ".pipe" in registry.describe_supported_formats()


def test_a_folder_holds_files_of_an_added_format(files, installed):
    (files / "d").mkdir()
    for split in ("train", "test"):
        (files / "d" / f"{split}.pipe").write_bytes((files / "d.pipe").read_bytes())
    data = load_dataset_splits(DataConfig(dataset=str(files / "d")), 0)
    assert set(data.splits) == {"train", "validation", "test"}


def test_an_error_names_the_row_of_an_added_format(files, installed):
    (files / "d.pipe").write_text("one|cat\n|dog\n")
    with pytest.raises(DataError, match=r"d\.pipe:2"):
        load_dataset_splits(DataConfig(dataset=str(files / "d.pipe")), 0)


def test_a_missing_column_of_an_added_format(files, installed):
    with pytest.raises(DataError, match="title"):
        load_dataset_splits(DataConfig(dataset=str(files / "d.halves"), text="title"), 0)


def test_a_compressed_file_needs_a_reader_that_takes_it(files, installed):
    path = files / "d.pipe.gz"
    path.write_bytes(b"")
    assert registry.file_format(files / "d.csv.gz") == ".csv"
    assert registry.file_format(path) is None


def test_a_plugin_that_is_no_reader_is_refused(files, installed):
    object.__setattr__(installed["pipe"], "load", lambda: int)
    with pytest.raises(UserError, match="pipe"):
        load_dataset_splits(DataConfig(dataset=str(files / "d.pipe")), 0)
