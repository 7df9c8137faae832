"""A recipe, data, a model and a run folder that mean harm: no byte leaves, and none changes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import ChatServer
from datasets import Dataset
from helpers import kd

from kdcli.errors import DataError, ModelError
from kdcli.models import model_io
from kdcli.pipeline import runner
from kdcli.pipeline.run_folder import RunFolder
from kdcli.progress import SilentReporter
from kdcli.recipe.data import DataConfig
from kdcli.recipe.schema import Recipe
from kdcli.safe_files import sha256_of_file

SECRET = "hf_" + "SecretOfTheUser" * 2
FIT = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder, and beside it what is none of kd's business."""
    folder, private = tmp_path / "here", tmp_path / "private"
    for place in (folder, private):
        place.mkdir()
    (private / "precious").write_text(f"{SECRET}\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("KD_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    return folder


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (sha256_of_file(path), path.stat().st_mode) for path in files}


def refused(here, *arguments):
    """`kd` refuses: exit 2 in one sentence without the secret, and no file is other than before."""
    places = (here, here.parent / "private")
    before = [*map(contents, places)]
    done = kd(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("Error: ")
    assert "Internal error in kd" not in done.stderr
    assert SECRET not in done.output
    assert [*map(contents, places)] == before
    return done.stderr


# A stranger's recipe


@pytest.fixture
def reached(monkeypatch):
    """The hosts that anybody looked up or connected to, but for this machine."""
    found = []
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def noted_look_up(host, *arguments, **options):
        if host not in ("127.0.0.1", "localhost"):
            found.append(host)
            raise socket.gaierror("no names here")
        return look_up(host, *arguments, **options)

    def noted_connect(self, address):
        if isinstance(address, tuple) and address[0] != "127.0.0.1":
            found.append(address[0])
            raise OSError("no network here")
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", noted_look_up)
    monkeypatch.setattr(socket.socket, "connect", noted_connect)
    return found


def written(here, data, student, teacher):
    recipe = {
        "name": "theirs",
        "data": {"dataset": str(data), "label": "intent"},
        "teacher": teacher,
        "student": {"model": str(student)},
        "distill": {**FIT, "losses": [{"kind": "soft_targets"}]},
        "evaluate": {"latency_texts": 2, "baselines": []},
    }
    (here / "recipe.yaml").write_text(json.dumps(recipe))


EVIL = "https://collector.example/v1"
ENDPOINTS = {
    "texts alone": ({"url": EVIL, "api_key_env": None}, []),
    "the provider's key": ({"url": EVIL}, []),
    "the Hub's token": ({"url": EVIL, "api_key_env": "HF_TOKEN"}, []),
    "another key to an allowed host": (
        {"url": EVIL, "api_key_env": "HF_TOKEN"},
        ["--allow-endpoint", "collector.example"],
    ),
    "a key that is allowed elsewhere": (
        {"url": EVIL, "api_key_env": "HF_TOKEN"},
        ["--allow-endpoint", "collector.example", "--allow-endpoint", "mine.example=HF_TOKEN"],
    ),
    "a host that looks like another": (
        {"url": "https://api.openai.com.collector.example/v1"},
        ["--allow-endpoint", "api.openai.com"],
    ),
    "not encrypted": (
        {"url": "http://collector.example/v1"},
        ["--allow-endpoint", "collector.example"],
    ),
    "a key in the query": (
        {"url": f"{EVIL}?api_key={SECRET}"},
        ["--allow-endpoint", "collector.example"],
    ),
    "a password": (
        {"url": f"https://me:{SECRET}@collector.example/v1"},
        ["--allow-endpoint", "collector.example"],
    ),
    "a token to this machine": ({"url": "http://127.0.0.1:9/v1", "api_key_env": "HF_TOKEN"}, []),
}


@pytest.mark.parametrize(("endpoint", "flags"), ENDPOINTS.values(), ids=ENDPOINTS)
def test_a_recipe_sends_nothing_unasked(here, reached, small_data, tiny_backbone, endpoint, flags):
    written(here, small_data, tiny_backbone, {"kind": "endpoint", "model": "m", **endpoint})
    said = refused(here, "distill", "recipe.yaml", *flags)
    assert "teacher" in said
    refused(here, "distill", "recipe.yaml", "--dry-run", *flags)
    refused(here, "fine-tune-teacher", "recipe.yaml", *flags)
    refused(here, "sweep", "recipe.yaml", "--dry-run")
    assert not reached


def test_a_server_that_sends_on_gets_the_key_to_no_other(here, small_data, tiny_backbone, labels):
    other = ChatServer(labels)

    def elsewhere(handler):
        handler.send_response(307)
        handler.send_header("Location", f"{there}/chat/completions")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with other.running() as there, ChatServer(labels, raw=elsewhere).running() as url:
        teacher = {"kind": "endpoint", "model": "m", "url": url, "retries": 0}
        written(here, small_data, tiny_backbone, teacher)
        done = kd("distill", "recipe.yaml")
        assert done.exit_code == 2, done.output
        assert SECRET not in done.output
        assert not other.at


@pytest.mark.parametrize("more", [["--dry-run"], []], ids=["dry", "run"])
@pytest.mark.parametrize("command", ["distill", "fine-tune-teacher", "sweep"])
def test_a_recipe_s_code_is_not_imported_unasked(here, small_data, tiny_backbone, command, more):
    (here / "evil_module.py").write_text("open('pwned', 'w').close()\n")
    written(here, small_data, tiny_backbone, {"kind": "function", "function": "evil_module:f"})
    refused(here, command, "recipe.yaml", *more)


def test_what_is_published_tells_no_address_of_a_private_endpoint(here, tiny_backbone):
    rows = [f"{label} {number},{label}" for label in ("parcel", "refund") for number in range(4)]
    for split in ("train", "validation", "test"):
        (here / "data").mkdir(exist_ok=True)
        (here / f"data/{split}.csv").write_text("\n".join(["text,intent", *rows]))
    with ChatServer(["parcel", "refund"]).running() as url:
        teacher = {"kind": "endpoint", "model": "m", "url": url, "votes": 1}
        written(here, here / "data", tiny_backbone, teacher)
        done = kd("distill", "recipe.yaml", "-o", "run")
        assert done.exit_code == 0, done.output
    published = [*(here / "run/student").iterdir(), here / "run/report.html"]
    address = url.removeprefix("http://").partition("/")[0].encode()
    assert not [path for path in published if address in path.read_bytes()]
    assert b"a private endpoint" in (here / "run/report.html").read_bytes()
    everything = [path for path in here.rglob("*") if path.is_file()]
    assert not [path for path in everything if SECRET.encode() in path.read_bytes()]


# A stranger's data and models


def test_saved_data_reads_no_file_of_another_folder(here):
    Dataset.from_dict({"text": [SECRET] * 4, "label": ["a", "b"] * 2}).save_to_disk("../private/d")
    Dataset.from_dict({"text": ["x"] * 4, "label": ["a", "b"] * 2}).save_to_disk("theirs")
    state = json.loads(Path("theirs/state.json").read_text())
    (arrow,) = Path("../private/d").glob("*.arrow")
    for name in (f"../{arrow}", str(arrow.resolve()), "link.arrow", 7):
        state["_data_files"] = [{"filename": name}]
        Path("theirs/state.json").write_text(json.dumps(state))
        if name == "link.arrow":
            Path("theirs/link.arrow").symlink_to(arrow.resolve())
        refused(here, "recipe", "new", "--data", "theirs")
    shutil.rmtree("theirs")
    Path("theirs").mkdir()
    Path("theirs/dataset_dict.json").write_text(json.dumps({"splits": ["../../private/d"]}))
    assert "outside" in refused(here, "recipe", "new", "--data", "theirs")


def test_a_data_folder_s_link_brings_nothing_in(here):
    Path("../private/precious").write_text("text,label\nsecret,a\nsecret two,b\n")
    Path("theirs").mkdir()
    Path("theirs/train.csv").symlink_to("../../private/precious")
    assert "train.csv is a link" in refused(here, "recipe", "new", "--data", "theirs")
    Path("theirs/train.csv").unlink()
    Path("theirs/part").symlink_to("../../private", target_is_directory=True)
    with pytest.raises(DataError, match="part is a link"):
        from kdcli.data.readers import split_files

        split_files.hash_local_dataset(DataConfig(dataset="theirs"))


CARDS = [
    "data_files: http://{host}/x.csv",
    "data_files: [{{split: train, path: 'http://{host}/x.csv'}}]",
    "data_files: {{train: 'zip://x.csv::http://{host}/x.zip'}}",
    "data_files: ../private/*",
    "data_dir: ../private",
    "data_files: {private}/precious",
]


@pytest.mark.parametrize("named", CARDS)
@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
def test_a_data_card_fetches_nothing(here, reached, named, file):
    server = ChatServer(())
    private = here.parent / "private"
    (private / "train.csv").write_text("text,label\nsecret,a\nsecret two,b\n")
    with server.running() as url:
        card = named.format(host=url.split("/")[2], private=private)
        Path("theirs").mkdir()
        Path("theirs/README.md").write_text("---\nlicense: mit\n---\n")
        text = f"configs:\n- config_name: default\n  {card}\n"
        text = f"---\n{text}---\n" if file == "README.md" else text
        (Path("theirs") / file).write_text(text)
        said = refused(here, "recipe", "new", "--data", "theirs")
    assert file in said
    assert not server.requests
    assert not reached


@pytest.mark.parametrize("key", ["vocab", "merges", "vocab_file", "tokenizer_file"])
def test_a_tokenizer_reads_no_file_of_another_folder(here, tiny_backbone, key):
    shutil.copytree(tiny_backbone, "theirs")
    settings = json.loads(Path("theirs/tokenizer_config.json").read_text())
    (here / "mine.txt").write_text(SECRET)
    for name in (here.parent / "private/precious", "../private/precious", "mine.txt"):
        Path("theirs/tokenizer_config.json").write_text(json.dumps({**settings, key: str(name)}))
        with pytest.raises(ModelError, match=key):
            model_io.locate_model("theirs")
    # The path of the machine that the model was made on.
    made_there = {**settings, key: "/home/elsewhere/vocab.txt"}
    Path("theirs/tokenizer_config.json").write_text(json.dumps(made_there))
    model_io.locate_model("theirs")


def test_a_model_folder_s_link_brings_nothing_in(here, tiny_backbone):
    shutil.copytree(tiny_backbone, "theirs")
    (here / "theirs/added.txt").symlink_to("../../private/precious")
    with pytest.raises(ModelError, match=r"added\.txt is a link"):
        model_io.locate_model("theirs")
    refused(here, "init-student", "theirs", "-o", "student", "--num-hidden-layers", "2")


def test_the_hub_s_cache_is_made_of_links_and_is_read(here, tiny_backbone):
    blobs, snapshot = Path("models--a--b/blobs"), Path("models--a--b/snapshots/0")
    for place in (blobs, snapshot):
        place.mkdir(parents=True)
    for file in Path(tiny_backbone).iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert model_io.locate_model(str(snapshot)) == snapshot
    (snapshot / "added.txt").symlink_to("../../../../private/precious")
    with pytest.raises(ModelError, match=r"added\.txt is a link"):
        model_io.locate_model(str(snapshot))


# A stranger's run folder


@pytest.fixture(scope="module")
def finished(small_data, tiny_teacher, tmp_path_factory):
    recipe = Recipe.model_validate({
        "name": "theirs",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_teacher)},
        "student": {"num_hidden_layers": 2},
        "distill": {**FIT, "losses": [{"kind": "soft_targets"}]},
        "evaluate": {"latency_texts": 2, "baselines": []},
    })  # fmt: skip
    folder = tmp_path_factory.mktemp("finished") / "run"
    runner.run_pipeline(recipe, folder, SilentReporter())
    return folder


@pytest.fixture
def theirs(here, finished):
    subprocess.run(["cp", "-a", finished, here / "run"], check=True)
    return here / "run"


@pytest.mark.parametrize(
    "name",
    ["notes.json", "seeds.json", ".lock", ".holder", "run.json", "recipe.yaml", "student/README.md",
     "student/.env", "logs/x", ".work"],
)  # fmt: skip
def test_a_link_in_a_run_folder_is_refused(here, theirs, name):
    (theirs / name).unlink(missing_ok=True)
    (theirs / name).symlink_to(here.parent / "private/precious")
    assert f"{name} is a link" in refused(here, "card", "run")


def test_notes_of_a_card_change_no_other_file(here, theirs):
    """A second name of a file is no link that can be told: it is replaced, not written to."""
    os.link(here.parent / "private/precious", theirs / "notes.json")
    card = theirs / "student/README.md"
    card.write_text(card.read_text() + "\n<!-- yours: x -->\nMine.\n<!-- /yours -->\n")
    # The card isn't what the run wrote any more: it is written again, with the note.
    done = kd("card", "run")
    assert done.exit_code == 0, done.output
    assert "Mine." in card.read_text()
    assert (here.parent / "private/precious").read_text() == f"{SECRET}\n"


def test_only_what_the_run_made_is_pushed(here, theirs):
    (theirs / "student/.env").write_text(SECRET)
    (theirs / "student/keys.txt").write_text(SECRET)
    manifest = json.loads((theirs / "run.json").read_text())
    precious = here.parent / "private/precious"
    listed = [sha256_of_file(precious), precious.stat().st_size]
    done = kd("card", "run", "--push", "owner/name", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    files = json.loads(done.stdout)["files"]
    assert {"model.safetensors", "config.json", "README.md", "kd.json"} <= files.keys()
    assert not {".env", "keys.txt"} & files.keys()
    for name in ("../../../private/precious", str(precious), ".env"):
        changed = json.loads(json.dumps(manifest))
        changed["stages"]["distill"]["files"][name] = listed
        (theirs / "run.json").write_text(json.dumps(changed))
        done = kd("card", "run", "--push", "owner/name", "--dry-run", "--json")
        assert SECRET not in done.output
        assert done.exit_code == 2 or name not in json.loads(done.stdout)["files"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("seconds", "long"), ("files", ["x"]), ("files", {"a": "b"}), ("result", 7), ("key", None)],
)
def test_a_manifest_that_makes_no_sense_is_refused(here, theirs, key, value):
    manifest = json.loads((theirs / "run.json").read_text())
    manifest["stages"]["evaluate"][key] = value
    (theirs / "run.json").write_text(json.dumps(manifest))
    assert "run.json is damaged" in refused(here, "card", "run")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_planted_links_at_an_output_are_not_followed(here, theirs, small_data, suffix):
    precious = here.parent / "private/precious"
    for name in (f".o{suffix}.new", f"o{suffix}", ".o.json.new", "o.json"):
        Path(name).symlink_to(precious)
    flags = ("--per-example", f"o{suffix}", "-o", "o.json")
    done = kd("evaluate", "run/student", "--data", small_data, "--label", "intent", *flags)
    assert done.exit_code == 0, done.output
    assert precious.read_text() == f"{SECRET}\n"
    assert not Path(f"o{suffix}").is_symlink()
    assert not Path("o.json").is_symlink()


def test_a_planted_lock_truncates_nothing(here, theirs, monkeypatch):
    from kdcli.pipeline.locks import shared_work_lock

    precious = here.parent / "private/precious"
    Path(".teacher-0123.lock").symlink_to(precious)
    with shared_work_lock(here / ".teacher-0123", SilentReporter()):
        pass
    assert precious.read_text() == f"{SECRET}\n"


def neighbour_s(here, theirs):
    """A run of ours that finds a neighbour's teacher."""
    record = RunFolder.open(theirs).records["teacher"]
    own = RunFolder(here / "own")
    return own.reuse_from_other_run("teacher", "teacher", record.key), own.path / "teacher"


def test_a_foreign_neighbour_s_files_are_copied(here, theirs, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    taken, folder = neighbour_s(here, theirs)
    assert taken is not None
    assert {path.stat().st_nlink for path in folder.iterdir()} == {1}
    before = contents(folder)
    with (theirs / "teacher/config.json").open("a") as file:
        file.write(" ")
    assert contents(folder) == before


def test_an_own_neighbour_s_files_are_shared(here, theirs):
    taken, folder = neighbour_s(here, theirs)
    assert taken is not None
    assert (folder / "model.safetensors").stat().st_nlink == 2


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_neighbour_s_artifact_that_is_more_than_files_is_not_taken(here, theirs, kind):
    place = theirs / "teacher/config.json"
    if kind == "link":
        place.rename(here / "config.json")
        place.symlink_to(here / "config.json")
    else:
        place.unlink()
        os.mkfifo(place)
    assert neighbour_s(here, theirs)[0] is None


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_weights_have_the_mode_that_the_umask_gives(tmp_path, tiny_teacher, umask):
    before = os.umask(umask)
    try:
        folder = tmp_path / "model"
        model, tokenizer = (
            model_io.load_classifier(tiny_teacher),
            model_io.load_tokenizer(tiny_teacher),
        )
        model_io.save_model(model, tokenizer, folder)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {0o666 & ~umask}
