"""A Hub that is away, slow, or breaks off: what the cache holds serves, and a download goes on."""

import os
from hashlib import sha256

import forked
import pytest
from hub_server import HubServer
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

WEIGHTS = "model.safetensors"
OFFLINE = {"HF_HUB_OFFLINE": "1"}
MODEL = ["init-student", "owner/model", "--drop-every", "2", "-o", "out"]


@pytest.fixture(scope="module")
def files(tokenizer, config, tmp_path_factory):
    """A model whose weights the client writes in several pieces, of 10 MB each."""
    folder = tmp_path_factory.mktemp("model")
    long = type(config)(**{**config.to_dict(), "max_position_embeddings": 200_000})
    BertForSequenceClassification(long).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def hub(files, small_data):
    with HubServer() as server:
        server.add_repo("model", "owner/model", files)
        data = {path.name: path for path in small_data.iterdir()}
        server.add_repo("dataset", "owner/texts", data)
        yield server


@pytest.fixture
def kd(hub, tmp_path):
    """Runs a command in an empty folder, with a cache of its own."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}

    def run(arguments, **changes):
        env = {**outside, **hub.env(), "HF_HOME": str(tmp_path / "hf"), **changes}
        return forked.kd(*arguments, cwd=tmp_path, env=env)

    return run


@pytest.fixture
def measure(tiny_teacher):
    """A command that reads its texts from the Hub."""
    return ["evaluate", tiny_teacher, "--data", "owner/texts", "--label", "intent"]


def check_error(done, says):
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "says"),
    [({}, "The Hub can't be reached for the {}."), (OFFLINE, "HF_HUB_OFFLINE is set, and the")],
    ids=["unreachable", "offline"],
)
def test_without_the_hub_and_with_nothing_in_the_cache_it_is_said(
    kd, hub, measure, tmp_path, changes, says
):
    hub.close()
    check_error(kd(MODEL, **changes), says.format("model owner/model"))
    check_error(kd(measure, **changes), says.format("data set owner/texts"))
    assert {path.name for path in tmp_path.iterdir()} <= {"hf"}


def test_without_the_hub_the_cache_serves(kd, hub, measure, tmp_path):
    for command in (measure, MODEL):
        done = kd(command)
        assert done.returncode == 0, done.stderr
    before = load_file(tmp_path / "out" / WEIGHTS)
    hub.close()
    for changes in ({}, OFFLINE):
        for command in (measure, [*MODEL, "--fresh"]):
            done = kd(command, **changes)
            assert done.returncode == 0, done.stderr
        assert load_file(tmp_path / "out" / WEIGHTS).keys() == before.keys()


def test_a_slow_hub_is_waited_for_and_one_that_is_silent_given_up(kd, hub, tmp_path):
    hub.delay("/resolve/", 0.5)
    done = kd(MODEL)
    assert done.returncode == 0, done.stderr
    hub.faults.clear()
    hub.delay("/resolve/", 3)
    elsewhere = str(tmp_path / "other")
    silent = kd([*MODEL, "--fresh"], HF_HUB_DOWNLOAD_TIMEOUT="1", HF_HOME=elsewhere)
    check_error(silent, "The Hub didn't answer in time for the model owner/model.")
    assert "HF_HUB_DOWNLOAD_TIMEOUT=60" in silent.stderr


def begun_at(hub):
    """The bytes from which on the weights were asked for."""
    return [start for path, start in hub.resumed if path == WEIGHTS]


def test_a_download_that_breaks_off_goes_on_where_it_was(kd, hub, files, tmp_path):
    hub.drop_next("GET", f"/resolve/.*/{WEIGHTS}")
    done = kd(MODEL)
    assert done.returncode == 0, done.stderr
    assert [start >= 10_000_000 for start in begun_at(hub)] == [True]
    (cached,) = (tmp_path / "hf").rglob(WEIGHTS)
    assert sha256(cached.read_bytes()).digest() == sha256(files[WEIGHTS].read_bytes()).digest()


def test_one_that_breaks_off_for_good_leaves_nothing_half(kd, hub, files, tmp_path):
    hub.drop_next("GET", f"/resolve/.*/{WEIGHTS}", times=20)
    check_error(kd(MODEL), "The Hub can't be reached for the model owner/model.")
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "hf").rglob(WEIGHTS))
    hub.faults.clear()
    done = kd(MODEL)
    assert done.returncode == 0, done.stderr
    (cached,) = (tmp_path / "hf").rglob(WEIGHTS)
    assert cached.read_bytes() == files[WEIGHTS].read_bytes()
