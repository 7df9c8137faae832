"""Small real parts that tests share: a tokenizer, models, a data set."""

import gc
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter

from kdcli.api.progress_reporting import QUIET_ENVIRONMENT

# A shell that starts a run in the background has it ignore Ctrl-C, and so would its processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What the user has in their cache is nothing to a test.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="kd-tests-")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ |= QUIET_ENVIRONMENT
# A sum depends on how many threads share it: what is compared bit for bit, here and in processes
# that a test starts, has one. Tiny models gain nothing from a second.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

# The process that hands out the tests to others runs none: fixtures import what is heavy.
import forked
import helpers
import properties  # noqa: F401 - sets hypothesis up
import pytest
from filelock import FileLock

from kdcli.recipe.recipe_lookup import shipped_recipes_folder
from kdcli.sanitize import printable


def pytest_configure(config):
    """Share the interpreter that forks among the workers; it imports nothing before it is asked."""
    if getattr(config.option, "numprocesses", None):
        forked.share()


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Use one worker more than there are processors, and none for single files.

    Tests wait for servers and other processes. What starts a worker takes longer than most files.
    """
    if all(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    return (os.cpu_count() or 1) + 1


# These take longest. Begun last, they would keep one worker busy alone.
LONG = ("tests/e2e/", "tests/sweep/", "tests/pipeline/", "tests/stages/", "tests/models/test_every")
# Workers share the tests of these; every other file is one worker's, with its module's fixtures.
SHARED = re.compile("tests/(e2e/test_(hub_faults|machine_faults|labels)|fuzz/|models/test_every|"
                    "test_hub|pipeline/test_runner)")  # fmt: skip


def pytest_collection_modifyitems(items):
    """Put the files that take long first."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish():
    """Spare each run what takes a quarter of its time and no test looks at.

    Training calls the garbage collector, which then looks through all that is imported; and
    `datasets` hashes each step of preparing data, to find it in its cache.
    """
    gc.collect()
    gc.freeze()
    if "datasets" in sys.modules:
        from datasets import arrow_dataset, fingerprint

        for module in (arrow_dataset, fingerprint):
            module.update_fingerprint = lambda *_, **__: fingerprint.generate_random_fingerprint()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """Do so after each file, whose tests may have imported more."""
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path != item.path:
            gc.collect()
            gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a worker a file at a time, or a test function of a `SHARED` file."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid.partition("[" if SHARED.match(nodeid) else "::")[0]

    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_timed_batch():
    """Time models by one batch: no test needs exact times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcli.evaluation.efficiency.latency._NUM_BATCHES", 1)
        yield


# No test here looks at the curves of a report, and each takes a tenth of a second to draw. The
# report's own tests draw them, and so does every `kd` in a process of its own.
NO_CURVES = re.compile("tests/(e2e|stages|teachers|pipeline)/")


@pytest.fixture(scope="module", autouse=True)
def no_curves(request):
    """Draw nothing in the pages of runs that are made in this process."""
    if not NO_CURVES.match(request.node.nodeid):
        yield
        return
    from kdcli.report import svg_plots

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svg_plots, "line_chart_svg", lambda *_, **__: "")
        yield


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """Make a folder that all workers share, and that no test may change.

    Call it with a name and a function that fills the empty folder of that name.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def make(name, fill):
        folder, made = shared / f"shared-{name}", shared / f"shared-{name}.made"
        with FileLock(shared / f"shared-{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                made.touch()
        return folder

    return make


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
def small_data(help_desk, make_once) -> Path:
    """A part of it, every label in every split, as a folder of CSV files."""

    def fill(folder):
        for split, rows in SPLITS.items():
            part = help_desk[split].class_encode_column("intent")
            part = part.train_test_split(rows, seed=0, stratify_by_column="intent")["test"]
            frame = part.to_pandas()
            frame["intent"] = [part.features["intent"].int2str(i) for i in part["intent"]]
            frame.to_csv(folder / f"{split}.csv", index=False)

    return make_once("small", fill)


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
def tiny_backbone(tokenizer, config, make_once) -> Path:
    """A folder with a BERT that has no head."""
    import torch
    from transformers import BertModel

    def fill(folder):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return make_once("backbone", fill)


@pytest.fixture(scope="session")
def tiny_teacher(tokenizer, config, labels, make_once) -> Path:
    """A folder with a BERT classifier of the help desk's labels, untrained."""
    import torch
    from transformers import BertForSequenceClassification

    classes = {
        "id2label": dict(enumerate(labels)),
        "label2id": {n: i for i, n in enumerate(labels)},
    }

    def fill(folder):
        torch.manual_seed(0)
        BertForSequenceClassification(type(config)(**config.to_dict() | classes)).save_pretrained(
            folder
        )
        tokenizer.save_pretrained(folder)

    return make_once("teacher", fill)


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
        assert "Internal error in kd" not in said
        assert sorted(tmp_path.rglob("*")) == before
        return said.removeprefix("Error: ")

    return run


@pytest.fixture(scope="session")
def exported(tiny_teacher, small_data, make_once) -> Path:
    """A DistilBERT cut from the teacher, exported to ONNX in int8."""
    import kdcli

    def fill(folder):
        kdcli.init_student(tiny_teacher, output=folder / "student", drop_every=2)
        kdcli.export(
            folder / "student",
            folder / "exported",
            precision="int8",
            max_drop=["accuracy=1"],
            data=small_data,
            label="intent",
        )

    return make_once("exported", fill) / "exported"
