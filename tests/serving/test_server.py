"""`kd serve` as a process: signals, workers, tokens and addresses."""

import os
import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forked
import helpers
import httpx
import psutil
import pytest
from serving.running import address_of

from kdcli.errors import ModelError, UsageError
from kdcli.serving import serve


class Notes:
    """A reporter that keeps notes."""

    def __init__(self):
        self.notes = []

    def info(self, message):
        self.notes.append(message)


@pytest.fixture
def start(model):
    """Starts `kd serve`; gives the process and its address."""
    processes = []

    def run(*arguments):
        process = forked.start("-m", "kdcli", "serve", model, "--port", 0, *arguments)
        processes.append(process)
        address = address_of(process)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        return process, address

    yield run
    for process in processes:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish(start, number, texts, expected):
    process, address = start("--threads", 1)
    with ThreadPoolExecutor(8) as pool:
        inputs = {"inputs": texts[:100], "parameters": {"top_k": 1}}
        answers = [
            pool.submit(httpx.post, f"{address}/", json=inputs, timeout=60) for _ in range(6)
        ]
        while httpx.get(f"{address}/info").json()["pending_texts"] < 300:
            time.sleep(0.01)
        process.send_signal(number)
        for answer in answers:
            labels = [row[0]["label"] for row in answer.result().json()]
            assert labels == [each.label for each in expected[:100]]
    assert process.wait() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_workers_share_the_weights_and_are_replaced(start, texts, expected):
    process, address = start("--workers", 2)
    parent = psutil.Process(process.pid)
    with httpx.Client() as client:
        for text, prediction in zip(texts[:40], expected[:40], strict=True):
            # Each connection may be that of another process.
            done = httpx.post(f"{address}/", json={"inputs": text})
            assert done.json()[0][0]["label"] == prediction.label
        assert client.get(f"{address}/ready").status_code == 200
    counted = re.search(r"^kd_texts_total (\S+)", httpx.get(f"{address}/metrics").text, re.M)
    assert float(counted[1]) == 40
    children = parent.children()
    assert len(children) == 2
    rollup = Path(f"/proc/{children[0].pid}/smaps_rollup").read_text()
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", rollup, re.M))
    # Most of a process's memory is its parent's.
    assert int(sizes["Pss"]) < 0.6 * int(sizes["Rss"])
    children[0].kill()
    while len(parent.children()) < 2 or children[0] in parent.children():
        time.sleep(0.05)
    assert httpx.post(f"{address}/", json={"inputs": "hello"}).status_code == 200
    process.terminate()
    assert process.wait() == 0
    assert not any(each.is_running() for each in children)


def test_a_token_from_a_file(start, tmp_path):
    file = tmp_path / "keys"
    file.write_text("a-key-of-mine\n\nanother-key\n")
    file.chmod(0o600)
    _, address = start("--api-key-file", file)
    assert httpx.post(f"{address}/", json={"inputs": "a"}).status_code == 401
    for key in ("a-key-of-mine", "another-key"):
        headers = {"Authorization": f"Bearer {key}"}
        done = httpx.post(f"{address}/", json={"inputs": "a"}, headers=headers)
        assert done.status_code == 200


@pytest.mark.parametrize("content", ["", "short\n", "two words in a line\n", "schlüssel-schlüssel"])
def test_a_file_without_good_tokens_is_refused(model, tmp_path, content):
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")
    done = helpers.kd("serve", model, "--port", 0, "--api-key-file", file)
    assert done.exit_code == 2
    assert str(file) in done.stderr
    assert helpers.kd("serve", model, "--api-key-file", tmp_path / "nothing").exit_code == 2


@pytest.fixture
def not_run(monkeypatch):
    """`serve` does all but run."""
    monkeypatch.setattr("kdcli.serving.server._run", lambda *_: None)


@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_public_address_without_a_token_is_pointed_out(model, tmp_path, not_run, host, warns):
    notes = Notes()
    serve(model, host=host, port=0, reporter=notes)
    assert any("--api-key-file" in note for note in notes.notes) == warns
    key = tmp_path / "key"
    key.touch(0o644)
    key.write_text("a-key-of-mine")
    notes = Notes()
    serve(model, host=host, port=0, api_key_file=key, reporter=notes)
    assert not any("--api-key-file" in note for note in notes.notes)
    assert any("chmod" in note for note in notes.notes)


def test_the_name_is_that_of_the_folder(model, not_run, tmp_path):
    notes = Notes()
    serve(model, port=0, reporter=notes)
    serve(model / "onnx" / "model.onnx", port=0, reporter=notes)
    run = tmp_path / "my-run"
    shutil.copytree(model, run / "student")
    (run / "recipe.yaml").touch()
    serve(run, port=0, reporter=notes)
    names = [re.search(r"Serving (\S+) at", note)[1] for note in notes.notes]
    assert names == ["exported", "exported", "my-run"]


def test_mistakes(model, tiny_teacher, not_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = helpers.kd("serve", model, "--port", taken.getsockname()[1])
    assert (done.exit_code, "--port" in done.stderr) == (3, True)
    with pytest.raises(UsageError):
        serve(model, host="no such host.invalid", port=0)
    with pytest.raises(ModelError):
        serve(model, port=0, compare_teacher=True)
    with pytest.raises(UsageError):
        serve(tiny_teacher, port=0, workers=2)
    assert helpers.kd("serve", os.devnull).exit_code == 2
