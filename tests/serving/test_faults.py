"""Whatever clients do, they get clear errors, and nobody a wrong label."""

import http.client
import json
import logging
import random
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import forked
import psutil
import pytest
from serving.running import address_of

KEY = "0123456789abcdef"
THREADS = 16
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def process(model, tmp_path_factory):
    """A server in a process of its own, with a token."""
    file = tmp_path_factory.mktemp("key") / "keys"
    file.touch(0o600)
    file.write_text(f"{KEY}\n")
    with forked.start("-m", "kdcli", "serve", model, "--port", 0, "--name", "served",
                      "--api-key-file", file, "--log-requests") as process:  # fmt: skip
        process.address = urlsplit(address_of(process))
        log, lines = [], process.stderr
        reader = threading.Thread(target=lambda: log.extend(lines), daemon=True)
        reader.start()
        process.log = log
        yield process
        process.terminate()
        assert process.wait() == 0


def request(address, path, body, headers=HEADERS):
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def head(size, path="/", key=KEY):
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode()


class Clients:
    """Clients with faults and without; each method is one, and returns the status it got."""

    def __init__(self, address, texts, expected):
        self.address, self.texts, self.expected = address, texts, expected

    def good_text(self, dice):
        index = dice.randrange(len(self.texts))
        body = json.dumps({"inputs": self.texts[index], "parameters": {"top_k": 1}})
        status, content = request(self.address, "/", body)
        if status == 200:
            assert json.loads(content)[0][0]["label"] == self.expected[index].label
        return status

    def good_batch(self, dice):
        indices = [dice.randrange(len(self.texts)) for _ in range(8)]
        body = json.dumps({"inputs": [[self.texts[index]] for index in indices]})
        status, content = request(self.address, "/predict", body)
        if status == 200:
            labels = [row[0]["label"] for row in json.loads(content)]
            assert labels == [self.expected[index].label for index in indices]
        return status

    def bad_json(self, dice):
        bodies = (b"", b"{", b"[1, 2", b"\xff\xfe", b'{"inputs": "\\ud800"}', b"null", b"[" * 9_999)
        return self.refused(dice.choice(bodies), "/", {400, 422})

    def wrong_types(self, dice):
        inputs = (3, [None], {"text": 1}, [], [["a", "b", "c"]])
        bodies = [*({"inputs": each} for each in inputs), {}, {"inputs": "a", "parameters": 2}]
        body = json.dumps(dice.choice(bodies)).encode()
        return self.refused(body, dice.choice(("/", "/predict")), {200, 422})

    def too_large(self, dice):
        body = b'{"inputs": "' + b"a" * 5_000_000 + b'"}'
        return self.refused(body, "/", {413})

    def too_many_texts(self, dice):
        return self.refused(json.dumps({"inputs": ["a"] * 129}).encode(), "/", {413})

    def too_long_text(self, dice):
        return self.refused(json.dumps({"inputs": "a " * 20_000}).encode(), "/", {413})

    def wrong_token(self, dice):
        headers = {"Authorization": dice.choice(("Bearer wrong", "Basic x", KEY, "Bearer \xe9"))}
        return self.refused(b'{"inputs": "a"}', "/", {401}, headers)

    def unknown_path(self, dice):
        return self.refused(b"{}", "/no/such/path?text=secret", {404})

    def no_http(self, dice):
        with socket.create_connection((self.address.hostname, self.address.port)) as connection:
            connection.sendall(b"\x16\x03\x01 no http\r\n\r\n")
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 400")
        assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
        return 400

    def cut_connection(self, dice):
        body = json.dumps({"inputs": dice.choice(self.texts)}).encode()
        whole = head(len(body)) + body
        with socket.create_connection((self.address.hostname, self.address.port)) as connection:
            connection.sendall(whole[: dice.randrange(1, len(whole) + 1)])
        return 0

    def slow_reader(self, dice):
        body = json.dumps({"inputs": [[text] for text in self.texts[:100]]}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.connect((self.address.hostname, self.address.port))
            connection.sendall(head(len(body), "/predict") + body)
            time.sleep(0.2)
            status = int(connection.recv(16).split()[1])
            time.sleep(0.2)
        return status

    def refused(self, body, path, statuses, headers=HEADERS):
        try:
            status, content = request(self.address, path, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            # The server may answer a large body before it is sent, and close.
            assert len(body) > 1_000_000
            return 0
        assert status in statuses | {429}, (status, content)
        if status != 200:
            assert json.loads(content).keys() == {"error", "error_type"}
            assert b"Traceback" not in content
        return status


def attack(process, texts, expected, count):
    """Send requests of all kinds, from threads, in an order that a seed gives; count statuses."""
    clients = Clients(process.address, texts, expected)
    kinds = [name for name in vars(Clients) if not name.startswith("_") and name != "refused"]
    # Half of the requests are good ones.
    names = [*(["good_text"] * (len(kinds) - 4)), *kinds]
    statuses, errors = Counter(), []
    lock = threading.Lock()

    def send(index):
        dice = random.Random(index)
        name = names[dice.randrange(len(names))]
        try:
            status = getattr(clients, name)(dice)
        except Exception as error:
            errors.append(f"{name}: {error!r}")
            return
        with lock:
            statuses[name, status] += 1

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(send, range(count)))
    assert not errors, errors[:10]
    return statuses


def check_log(process, texts):
    time.sleep(0.3)
    log = "".join(process.log)
    assert " POST / 200 " in log
    assert "Traceback" not in log
    assert KEY not in log
    assert "secret" not in log
    assert not [text for text in texts if text in log]
    assert not re.search(r" 500 ", log)


def test_faults_get_clear_errors_and_no_wrong_label(process, texts, expected):
    statuses = attack(process, texts, expected, 400)
    assert {name for name, _ in statuses} >= {"good_text", "bad_json", "too_large", "wrong_token"}
    assert not [key for key in statuses if key[1] >= 500]
    assert statuses["good_text", 200] > 100
    check_log(process, texts)


@pytest.mark.slow
def test_24000_requests_with_faults_leave_memory_flat(process, texts, expected):
    server = psutil.Process(process.pid)
    # The first requests fill caches and arenas.
    attack(process, texts, expected, 2_000)
    sizes = [server.memory_info().rss]
    total = Counter()
    for _ in range(4):
        total += attack(process, texts, expected, 6_000)
        sizes.append(server.memory_info().rss)
    logging.getLogger(__name__).warning("%s; RSS %s", sorted(total.items()), sizes)
    assert not [key for key in total if key[1] >= 500]
    assert sizes[-1] < 1.1 * sizes[1]
    assert server.num_fds() < 60
    check_log(process, texts)
