"""Small real parts that tests share: a tokenizer, models, a data set."""

import os
import re
import shutil
import tempfile
from collections import Counter

from kdcli.cli.app import _LIBRARY_ENVIRONMENT

# What the user has in their cache is nothing to a test.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="kd-tests-")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ |= _LIBRARY_ENVIRONMENT
# A sum depends on how many threads share it: what is compared bit for bit, here and in processes
# that a test starts, has one. Tiny models gain nothing from a second.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

# The process that hands out the tests to others runs none: fixtures import what is heavy.
import helpers
import properties  # noqa: F401 - sets hypothesis up
import pytest

from kdcli.recipe.loading import shipped_recipes_folder
from kdcli.sanitize import printable


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


def pytest_xdist_auto_num_workers():
    """One more than there are processors: tests wait for servers and other processes."""
    return (os.cpu_count() or 1) + 1


# Each file is one worker's; these take minutes. Begun last, they would keep one worker busy alone.
LONG = ("tests/e2e/", "tests/test_sweep.py", "tests/test_pipeline.py", "tests/stages/")


def pytest_collection_modifyitems(items):
    """Put the files that take long first."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


SPLITS = {"train": 120, "validation": 34, "test": 34}


@pytest.fixture(scope="session")
def help_desk():
    """The data set of the quick start: a `datasets.Dataset` for each split."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    files = {
        split: str(shipped_recipes_folder() / "quickstart" / f"{split}.csv") for split in SPLITS
    }
    return load_dataset("csv", data_files=files)


@pytest.fixture(scope="session")
def labels(help_desk) -> list[str]:
    """Its 17 label names."""
    return sorted(set(help_desk["train"]["intent"]))


@pytest.fixture(scope="session")
def small_data(help_desk, tmp_path_factory) -> Path:
    """A part of it, every label in every split, as a folder of CSV files."""
    folder = tmp_path_factory.mktemp("small")
    for split, rows in SPLITS.items():
        part = help_desk[split].class_encode_column("intent")
        part = part.train_test_split(rows, seed=0, stratify_by_column="intent")["test"]
        frame = part.to_pandas()
        frame["intent"] = [part.features["intent"].int2str(i) for i in part["intent"]]
        frame.to_csv(folder / f"{split}.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def tokenizer(help_desk, tmp_path_factory):
    """A WordPiece tokenizer of 600 pieces: the commonest words, and letters.

    What `tokenizers` trains isn't the same twice, and a model on it neither.
    """
    from transformers import BertTokenizerFast

    texts = " ".join(help_desk["train"]["text"]).lower()
    words = Counter(re.findall(r"\w+|[^\w\s]", texts))
    letters = sorted({*"".join(words)})
    common = sorted((w for w in words if len(w) > 1), key=lambda w: (-words[w], w))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [*letters, *(f"##{letter}" for letter in letters)]
    pieces += common[: 600 - len(pieces)]
    file = tmp_path_factory.mktemp("pieces") / "vocab.txt"
    file.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return BertTokenizerFast(vocab=str(file), model_max_length=64)


@pytest.fixture(scope="session")
def config(tokenizer):
    """A BERT of four narrow layers."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )


@pytest.fixture(scope="session")
def tiny_backbone(tokenizer, config, tmp_path_factory) -> Path:
    """A folder with a BERT that has no head."""
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tokenizer, config, labels, tmp_path_factory) -> Path:
    """A folder with a BERT classifier of the help desk's labels, untrained."""
    import torch
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    classes = {
        "id2label": dict(enumerate(labels)),
        "label2id": {n: i for i, n in enumerate(labels)},
    }
    BertForSequenceClassification(type(config)(**{**config.to_dict(), **classes})).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def refuses(tmp_path, monkeypatch):
    """Runs `kd` in an empty folder and sees it refuse: one line, exit 2, nothing written."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(*arguments) -> str:
        before = sorted(tmp_path.rglob("*"))
        done = helpers.kd(*arguments)
        assert done.exit_code == 2, done.output
        assert done.stdout == ""
        said = done.stderr.removesuffix("\n")
        assert said.startswith("Error: ")
        assert printable(said) == said, "more than one line"
        assert "This is a bug" not in said
        assert sorted(tmp_path.rglob("*")) == before
        return said.removeprefix("Error: ")

    return run
