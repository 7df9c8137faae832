"""The application: errors, limits, the queue, tokens, metrics and what is logged."""

import asyncio
import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from serving.running import FakeClassifier, running

from kdcli.errors import DataError, UsageError
from kdcli.serving import ServingLimits, create_app

SECRET = "a confidential text"


CLIENT = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0))


def ask(address, text="a", **options):
    return CLIENT.post(f"{address}/", json={"inputs": text}, **options)


def raw(address):
    """Return a connection."""
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    """The address of a server of `FakeClassifier`."""
    with running(FakeClassifier(tmp_path_factory.mktemp("fake")), name="fake") as address:
        yield address


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/", b"{", 400),
        ("/", b'{"inputs": "\\ud800"}', 400),
        ("/", b'"a"', 422),
        ("/", b"{}", 422),
        ("/", b'{"inputs": []}', 422),
        ("/", b'{"inputs": [1]}', 422),
        ("/", b'{"inputs": "a", "parameters": {"top_k": 0}}', 422),
        ("/", b'{"inputs": "a", "parameters": {"unknown": 1}}', 422),
        ("/predict", b'{"inputs": []}', 422),
        ("/predict", b'{"inputs": [["a", "b", "c"]]}', 422),
        ("/classify", b'{"texts": "a"}', 422),
        ("/classify", b'{"texts": ["a"], "topk": 1}', 422),
        ("/nothing", b"{}", 404),
        ("/health", b"{}", 405),
    ],
)
def test_mistakes_are_answered_with_json(fake, path, body, status):
    done = CLIENT.post(fake + path, content=body)
    assert done.status_code == status
    assert done.headers["content-type"] == "application/json"
    assert done.json().keys() == {"error", "error_type"}


def test_errors_name_the_key(fake):
    done = CLIENT.post(f"{fake}/classify", json={"texts": ["a"], "topk": 1})
    assert "topk" in done.json()["error"]
    done = CLIENT.post(f"{fake}/", json={"inputs": [SECRET, 3]})
    assert "inputs" in done.json()["error"]
    assert SECRET not in done.text


def test_limits(tmp_path):
    limits = ServingLimits(max_body_bytes=1_000, max_texts=3, max_text_chars=10)
    with running(FakeClassifier(tmp_path), limits) as address:
        assert ask(address, "a" * 10).status_code == 200
        assert ask(address, "a" * 11).status_code == 413
        assert ask(address, ["a"] * 3).status_code == 200
        assert ask(address, ["a"] * 4).status_code == 413
        pair = {"text": "a" * 6, "text_pair": "a" * 5}
        assert ask(address, pair).status_code == 413
        large = b'{"inputs": "a"' + b" " * 1_000 + b"}"
        assert CLIENT.post(address, content=large).status_code == 413
        # Without a stated length, the body is counted.
        parts = (large[start : start + 100] for start in range(0, len(large), 100))
        assert CLIENT.post(address, content=parts).status_code == 413


class Gate:
    """Holds batches until it opens; `entered` says how many texts have come."""

    def __init__(self):
        self.open, self.entered, self.batches = threading.Event(), 0, []

    def __call__(self, texts):
        if texts == ["warm up"]:
            return
        self.entered += len(texts)
        self.batches.append(len(texts))
        assert self.open.wait(30)


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_full_queue_answers_429_with_a_time_to_come_again(tmp_path):
    gate = Gate()
    limits = ServingLimits(max_queued_texts=4)
    with (
        running(FakeClassifier(tmp_path, act=gate), limits, num_threads=1) as address,
        ThreadPoolExecutor(8) as pool,
    ):
        first = pool.submit(ask, address)
        wait_until(lambda: gate.entered == 1)
        waiting = [pool.submit(ask, address, ["b", "c"]), pool.submit(ask, address)]
        wait_until(lambda: _pending(address) == 4)
        refused = ask(address)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error_type"] == "overloaded"
        gate.open.set()
        assert [each.result().status_code for each in (first, *waiting)] == [200] * 3
        # What had waited shared a batch.
        assert gate.batches == [1, 3]
        assert ask(address).status_code == 200


def _pending(address):
    return CLIENT.get(f"{address}/info").json()["pending_texts"]


def test_each_request_of_a_batch_gets_its_own_answer(tmp_path):
    gate = Gate()
    with (
        running(FakeClassifier(tmp_path, act=gate), num_threads=1) as address,
        ThreadPoolExecutor(16) as pool,
    ):
        first = pool.submit(ask, address)
        wait_until(lambda: gate.entered == 1)
        letters = "abcbacab"
        others = [pool.submit(ask, address, letter) for letter in letters]
        wait_until(lambda: _pending(address) == 1 + len(letters))
        gate.open.set()
        first.result()
        labels = [each.result().json()[0][0]["label"] for each in others]
        assert "".join(labels) == letters
        assert len(gate.batches) < 4


def test_a_text_without_tokens_fails_alone(tmp_path):
    gate = Gate()

    def act(texts):
        gate(texts)
        if "bad" in texts:
            raise DataError("Text 0 has no tokens.")

    with (
        running(FakeClassifier(tmp_path, act=act), num_threads=1) as address,
        ThreadPoolExecutor(8) as pool,
    ):
        first = pool.submit(ask, address)
        wait_until(lambda: gate.entered == 1)
        others = [pool.submit(ask, address, text) for text in ("a", "bad", "b")]
        wait_until(lambda: _pending(address) == 4)
        gate.open.set()
        assert [each.result().status_code for each in (first, *others)] == [200, 200, 422, 200]


def test_a_model_that_reads_one_text_at_a_time_gets_no_batches(tmp_path):
    gate = Gate()
    classifier = FakeClassifier(tmp_path, act=gate)
    classifier.reads_one_text_at_a_time = True
    with running(classifier, num_threads=1) as address, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, address) for _ in range(5)]
        wait_until(lambda: _pending(address) == 5)
        gate.open.set()
        assert [each.result().status_code for each in answers] == [200] * 5
    assert gate.batches == [1] * 5


def test_threads_predict_at_once_unless_the_classifier_forbids_it(tmp_path):
    for is_thread_safe in (True, False):
        gate = Gate()
        classifier = FakeClassifier(tmp_path, act=gate)
        classifier.is_thread_safe = is_thread_safe
        classifier.reads_one_text_at_a_time = True
        with running(classifier, num_threads=3) as address, ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(ask, address) for _ in range(4)]
            wait_until(lambda gate=gate, most=3 if is_thread_safe else 1: gate.entered == most)
            time.sleep(0.1)
            assert gate.entered == (3 if is_thread_safe else 1)
            gate.open.set()
            assert [each.result().status_code for each in answers] == [200] * 4


def test_a_request_that_takes_too_long_is_given_up(tmp_path):
    gate = Gate()
    limits = ServingLimits(timeout=0.3)
    with running(FakeClassifier(tmp_path, act=gate), limits, num_threads=1) as address:
        assert ask(address).status_code == 504
        # It still runs; the next one waits, and leaves the queue when its time is over.
        assert ask(address).status_code == 504
        assert _pending(address) == 1
        gate.open.set()
        wait_until(lambda: _pending(address) == 0)
        assert ask(address).status_code == 200


def test_a_body_that_does_not_arrive_is_given_up(tmp_path):
    with running(FakeClassifier(tmp_path), ServingLimits(timeout=0.3)) as address:
        with raw(address) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert ask(address).status_code == 200


def test_a_head_that_does_not_arrive_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("kdcli.serving.connections._HEAD_TIMEOUT", 0.2)
    with running(FakeClassifier(tmp_path)) as address:
        with raw(address) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: ")
            assert connection.recv(100) == b""
        assert ask(address).status_code == 200


def test_a_client_that_does_not_read_is_given_up(tmp_path):
    limits = ServingLimits(timeout=1, max_texts=3_000, max_queued_texts=3_000)
    classifier = FakeClassifier(tmp_path)
    # An answer of 9 MB, which no buffer holds.
    classifier.labels = tuple(letter * 1_000 for letter in "abc")
    with running(classifier, limits) as address:
        body = json.dumps({"inputs": ["a"] * 3_000}).encode()
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        with connection:
            connection.connect(raw(address).getpeername())
            head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            time.sleep(3)
            received = 0
            with suppress(ConnectionResetError):
                while part := connection.recv(65_536):
                    received += len(part)
        assert received < 9_000_000


def test_too_many_connections_get_503(tmp_path):
    with running(FakeClassifier(tmp_path), ServingLimits(max_connections=2)) as address:
        with raw(address), raw(address):
            time.sleep(0.1)
            with raw(address) as third:
                answer = third.recv(1_000)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b'{"error"' in answer
        time.sleep(0.1)
        assert ask(address).status_code == 200


def test_what_is_no_http_gets_400(fake):
    with raw(fake) as connection:
        connection.sendall(b"\x16\x03\x01\x02\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'{"error"' in answer


KEYS = ("first-key-of-two", "second-key-of-two")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """The address of a server that needs one of `KEYS`."""
    classifier = FakeClassifier(tmp_path_factory.mktemp("guarded"))
    with running(classifier, name="guarded", api_keys=KEYS) as address:
        yield address


def test_a_token_is_needed(guarded):
    for key in KEYS:
        assert ask(guarded, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    for header in ("Bearer wrong", f"Basic {KEYS[0]}", KEYS[0], "Bearer", f"Bearer {KEYS[0]}x"):
        done = ask(guarded, headers={"Authorization": header})
        assert done.status_code == 401
        assert done.headers["www-authenticate"] == "Bearer"
        assert done.json()["error_type"] == "unauthorized"
    for path in ("/info", "/metrics", "/v2", "/v2/models/guarded"):
        assert CLIENT.get(guarded + path).status_code == 401


def test_probes_and_the_page_need_no_token(guarded):
    for path in ("/", "/health", "/ready", "/v2/health/live", "/v2/health/ready"):
        assert CLIENT.get(guarded + path).status_code == 200


def test_an_error_of_the_model_shows_nothing_of_it_nor_of_the_text(tmp_path, caplog):
    def act(texts):
        if SECRET in texts:
            raise RuntimeError(f"cannot read {texts}")

    caplog.set_level(logging.INFO, "kdcli")
    with running(FakeClassifier(tmp_path, act=act), log_requests=True) as address:
        done = ask(address, SECRET)
        CLIENT.get(f"{address}/?text={SECRET}")
        CLIENT.get(f"{address}/{SECRET}")
        assert ask(address).status_code == 200
    assert done.status_code == 500
    assert SECRET not in done.text
    assert "RuntimeError" not in done.text
    assert "RuntimeError" in caplog.text
    assert "POST / 500" in caplog.text
    assert SECRET.split()[1] not in caplog.text


def test_an_error_of_a_route_is_json(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError(SECRET)

    with running(FakeClassifier(tmp_path)) as address:
        monkeypatch.setattr("kdcli.serving.protocols.huggingface.label_scores", fail)
        done = ask(address)
    assert done.status_code == 500
    assert done.json()["error_type"] == "backend"
    assert SECRET not in done.text + caplog.text


def test_metrics_count_requests_texts_and_labels(tmp_path):
    with running(FakeClassifier(tmp_path)) as address:
        ask(address, ["a", "b", "a"])
        CLIENT.post(address, content=b"{")
        lines = CLIENT.get(f"{address}/metrics").text.splitlines()
    for line in (
        'kd_requests_total{route="/",status="200"} 1.0',
        'kd_requests_total{route="/",status="400"} 1.0',
        "kd_texts_total 3.0",
        'kd_predicted_labels_total{label="a"} 2.0',
        'kd_request_seconds_count{route="/"} 2.0',
    ):
        assert line in lines


def test_refused_texts_are_counted(tmp_path):
    point = {"label": "c", "score": "margin", "threshold": 0.0}
    (tmp_path / "kd.json").write_text(json.dumps({"temperature": 1, "operating_point": point}))
    with running(FakeClassifier(tmp_path)) as address:
        assert [row[0]["label"] for row in ask(address, ["c", "a"]).json()] == ["c", "a"]
        assert "kd_refused_texts_total 1.0" in CLIENT.get(f"{address}/metrics").text


def test_a_dead_thread_is_noticed(tmp_path):
    def act(texts):
        if texts == ["c"]:
            raise SystemExit

    with running(FakeClassifier(tmp_path, act=act), ServingLimits(timeout=0.3)) as address:
        assert CLIENT.get(f"{address}/ready").status_code == 200
        ask(address, "c")
        for path in ("/ready", "/health", "/v2/health/live"):
            assert CLIENT.get(address + path).status_code == 503


def test_the_teacher_is_asked_where_a_request_wants_it(tmp_path):
    teacher = FakeClassifier(tmp_path)
    teacher.labels = ("x", "y", "z")
    teacher._compute_logits = lambda texts, *_: np.array([[0, 1, 0]] * len(texts), np.float32)
    with running(FakeClassifier(tmp_path), teacher=teacher) as address:
        assert CLIENT.get(f"{address}/info").json()["teacher"] is True
        content = {"texts": ["a"]}
        assert "teacher" not in CLIENT.post(f"{address}/classify", json=content).json()
        content["compare"] = True
        answer = CLIENT.post(f"{address}/classify", json=content).json()
        assert answer["predictions"][0]["label"] == "a"
        assert answer["teacher"]["predictions"][0]["label"] == "y"


def test_the_application_runs_in_any_asgi_server(tmp_path):
    app = create_app(FakeClassifier(tmp_path), name="mine")

    async def talk():
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
        ):
            return await client.post("/", json={"inputs": "b"})

    assert asyncio.run(talk()).json()[0][0]["label"] == "b"


def test_a_name_that_breaks_addresses_is_refused(tmp_path):
    with pytest.raises(UsageError):
        create_app(FakeClassifier(tmp_path), name="a/b")
