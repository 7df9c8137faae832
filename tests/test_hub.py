"""A push that fails, at whatever request, is one sentence and changes nothing on the Hub.

And a Hub that is away keeps nobody waiting for what the caches hold.
"""

import json
import os

import forked
import pytest
from hub_server import HubServer
from huggingface_hub import constants

from kdcli.hub import read_with_cache_fallback

PUSH = """
import json, pathlib, sys
from kdcli import errors, hub
files = {path.name: path for path in pathlib.Path(sys.argv[2]).iterdir()}
try:
    print(json.dumps({"commit": hub.push_to_hub(sys.argv[1], files, "A message").commit}))
except errors.KdError as error:
    print(json.dumps({"code": error.exit_code, "message": str(error)}))
"""


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def environment(hub, tmp_path_factory):
    outside = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return {**outside, **hub.env(), "HF_HOME": str(tmp_path_factory.mktemp("hf"))}


@pytest.fixture
def push(environment, tmp_path):
    """Pushes a small model in a process of its own; what it comes to."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "model.safetensors").write_bytes(os.urandom(10_000))

    def run(name):
        done = forked.python("-c", PUSH, name, folder, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


# What the client itself tries again for half a minute is left out where the file is sent.
ANSWERS = {401: 2, 403: 2, 404: 3, 409: 3, 429: 3, 500: 3, None: 3}
CASES = [("POST", "/api/repos/create", status, True) for status in ANSWERS]
CASES += [("PUT", "/lfs/", status, True) for status in (401, 403, 404, 409)]
CASES += [("POST", "/commit/", status, new) for status in ANSWERS for new in (True, False)]


@pytest.mark.parametrize(("method", "path", "status", "new"), CASES)
def test_a_push_that_fails_on_the_way_changes_nothing(hub, push, method, path, status, new):
    name = f"wmduggan41/{path.strip('/').rpartition('/')[2]}-{status}-{new}"
    before = None if new else dict(hub.add_repo("model", name, {"notes.md": b"mine"}).files)
    if status is None:
        hub.drop_next(method, path, times=20)
    else:
        hub.fail_next(method, path, status, times=20)
    try:
        failed = push(name)
    finally:
        hub.faults.clear()
    assert failed["code"] == ANSWERS[status]
    assert name in failed["message"]
    assert "The Hub" in failed["message"]
    after = hub.repos.get(("model", name))
    if status is not None:  # what was cut was the answer: what was asked for is done
        assert (after and after.files) == before
    assert push(name)["commit"] or status is None, "it goes the second time"
    assert len([c for c in hub.repo("model", name).commits if "README.md" in c.paths]) == 1


def test_too_many_requests_are_told_to_wait(hub, push):
    hub.fail_next("POST", "/commit/", 429, times=20)
    try:
        assert "wait a few minutes" in push("wmduggan41/busy")["message"]
    finally:
        hub.faults.clear()


class Reads:
    """Notes whether the Hub was to be asked; the cache may hold nothing."""

    def __init__(self, cached):
        self.cached, self.offline = cached, []

    def __call__(self):
        self.offline.append(constants.HF_HUB_OFFLINE)
        if constants.HF_HUB_OFFLINE and not self.cached:
            raise FileNotFoundError
        return "texts"


@pytest.mark.parametrize(
    ("away", "cached", "offline"),
    [(True, True, [True]), (True, False, [True, False]), (False, True, [False])],
    ids=["away and cached", "away and not cached", "there"],
)
def test_the_cache_serves_at_once_where_the_hub_is_away(hub, monkeypatch, away, cached, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9" if away else hub.endpoint)
    read = Reads(cached)
    assert read_with_cache_fallback(read) == "texts"
    assert read.offline == offline
    assert not constants.HF_HUB_OFFLINE
