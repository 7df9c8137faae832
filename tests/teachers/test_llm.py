"""A language model behind an API: what it knows is learnt, and nothing is paid twice."""

import dataclasses
import json
import resource
import sqlite3
import threading
import time
import zlib
from pathlib import Path

import forked
import numpy as np
import pytest
from chat_server import ANSWER, PROMPT, ChatServer
from helpers import Listener
from teachers.conftest import label_of, texts_of

from kdcli.data import dataset_loading as data
from kdcli.errors import KdError, RemoteServiceError, UsageError, UserError
from kdcli.progress import SilentReporter
from kdcli.recipe.black_box_teachers import LLMTeacherConfig
from kdcli.recipe.data import DataConfig
from kdcli.teachers import llm, llm_client
from kdcli.teachers.black_box_context import BlackBoxContext
from kdcli.teachers.response_cache import default_cache_file

LABELS = ("parcel", "password", "refund")
PRICE = (1000.0, 2000.0)
EACH = (PROMPT * PRICE[0] + ANSWER * PRICE[1]) / 1e6


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(llm_client, "_retry_delay", lambda attempt, reply: 0.02)


@pytest.fixture(scope="module")
def corpus(planted):
    return data.load_dataset_splits(DataConfig(dataset=str(planted)), 0)


def ask(corpus, url, split="validation", reporter=None, allow=(), **settings):
    spec = LLMTeacherConfig(url=url, model="m", **settings)
    place = BlackBoxContext(
        corpus,
        DataConfig(dataset="x/y"),
        Path(),
        reporter or SilentReporter(),
        allow_endpoints=allow,
    )
    return llm.create_predictor(spec, place)(corpus.splits[split], lambda done, total: None)


def right(corpus, logits, split="validation"):
    said = [corpus.label_names[i] for i in logits.argmax(1)]
    return said == [label_of(text) for text in corpus.splits[split]["text"]]


def distinct(corpus, split="validation"):
    return len(set(corpus.splits[split]["text"]))


@pytest.mark.parametrize("logprobs", [True, False, "refused"])
def test_a_student_learns_from_it_and_no_text_is_asked_twice(planted, distilled, logprobs):
    server = ChatServer(LABELS, logprobs=logprobs)
    with server.running() as url:
        teacher = {"kind": "endpoint", "url": url, "model": "m", "votes": 3}
        made, figures = distilled(teacher)
        assert figures["teacher"]["accuracy"] == 1
        assert figures["student"]["agreement"] > 0.9
        assert figures["baseline"]["accuracy"] < 0.7
        assert set(server.asked.values()) == {1}
        texts = len(texts_of(planted))
        # Where it gives none, one request finds that out, or is refused before it is paid.
        assert (
            server.answered == {True: texts, False: 3 * texts + 1, "refused": 3 * texts}[logprobs]
        )
    assert "m behind an API" in (made.path / "student/README.md").read_text()


def test_log_probabilities_are_the_labels(corpus):
    server = ChatServer(LABELS)
    with server.running() as url:
        logits = ask(corpus, url)
    odds = np.sort(np.exp(logits), axis=1) / np.exp(logits).sum(1, keepdims=True)
    first, second = np.exp(-0.1), np.exp(-2.5)
    assert np.allclose(odds[:, -1], first / (first + second), atol=1e-4)
    assert np.allclose(odds[:, -2], second / (first + second), atol=1e-4)


def test_votes_are_shares(corpus):
    turns = iter(range(10**6))
    server = ChatServer(LABELS, logprobs=False, say=lambda text: "1" if next(turns) % 4 else "2")
    with server.running() as url:
        logits = ask(corpus, url, votes=4, concurrency=1)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(shares[:, 0], 0.75, atol=1e-4)
    assert np.allclose(shares[:, 1], 0.25, atol=1e-4)


@pytest.mark.parametrize("logprobs", [True, False])
def test_an_answer_that_is_no_label(corpus, logprobs):
    heard = Listener()
    server = ChatServer(LABELS, logprobs=logprobs, say=lambda text: "I can't tell")
    server.completion = lambda body, whole=server.completion: strange(whole(body))
    with server.running() as url:
        logits = ask(corpus, url, reporter=heard)
    assert np.ptp(logits, axis=1).max() < 1e-6, "no label is preferred"
    texts = distinct(corpus)
    assert len(heard.said) == 1
    assert f"no label for {texts} of {texts} texts" in heard.said[0]


def strange(document):
    """Alternatives that are no numbers of labels."""
    (choice,) = document["choices"]
    for token in (choice.get("logprobs") or {"content": ()})["content"]:
        token["top_logprobs"] = [{"token": "I", "logprob": -0.1}, {"token": "17", "logprob": -3}]
    return document


@pytest.mark.parametrize("fault", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(corpus, fault):
    server = ChatServer(LABELS, faults=[fault] * 5)
    with server.running() as url:
        assert right(corpus, ask(corpus, url))
    assert server.answered == distinct(corpus)


def test_a_server_that_stays_down_is_given_up_and_paid_answers_stay(corpus):
    server = ChatServer(LABELS)
    with server.running() as url:
        server.faults = [*[None] * 10, *[500] * 10_000]
        with pytest.raises(RemoteServiceError, match="status 500: try again, 3 times"):
            ask(corpus, url, retries=2)
        answered, server.faults = server.answered, []
        assert 1 <= answered <= 10
        assert right(corpus, ask(corpus, url))
    assert server.answered == distinct(corpus)
    assert set(server.asked.values()) == {1}


def test_nobody_there(corpus):
    with pytest.raises(RemoteServiceError, match="no response"):
        ask(corpus, "http://127.0.0.1:9/v1", retries=1)


def test_a_slow_server_is_asked_by_several_at_a_time_and_no_more(corpus):
    patience = time.monotonic() + 60

    def say(text):
        # The first is alone: it tells whether log-probabilities are known.
        while server.answered > 1 and server.most_at_once < 6 and time.monotonic() < patience:
            time.sleep(0.005)
        return server.number(text)

    server = ChatServer(LABELS, seconds=0.01, say=say)
    with server.running() as url:
        assert right(corpus, ask(corpus, url, concurrency=6))
    assert server.most_at_once == 6


def test_an_answer_that_takes_too_long_is_asked_for_again(corpus):
    server = ChatServer(LABELS, seconds=0.4)
    with (
        server.running() as url,
        pytest.raises(RemoteServiceError, match=r"within 0\.1 s, 2 times"),
    ):
        ask(corpus, url, timeout=0.1, retries=1)


def test_the_pace_is_kept(corpus):
    server = ChatServer(LABELS)
    with server.running() as url:
        ask(corpus, url, requests_per_minute=60 * 100)
    gaps = np.diff(sorted(server.at))
    assert len(server.at) == distinct(corpus)
    assert gaps.sum() > 0.8 * 0.01 * (len(server.at) - 1)


def test_the_ceiling_holds_over_runs(corpus):
    ceiling = 10.5 * EACH
    server = ChatServer(LABELS)
    with server.running() as url:
        settings = {"price_per_million_tokens": PRICE, "concurrency": 4}
        for _ in range(2):
            with pytest.raises(UserError, match=r"teacher\.max_cost.*run the same"):
                ask(corpus, url, max_cost=ceiling, **settings)
            assert server.answered * EACH <= ceiling
        few = server.answered
        assert few >= 1
        # Those of another split are of the same run.
        with pytest.raises(UserError, match=r"teacher\.max_cost"):
            ask(corpus, url, "test", max_cost=few * EACH, **settings)
        assert server.answered == few
        assert right(corpus, ask(corpus, url, max_cost=1000 * EACH, **settings))
    assert set(server.asked.values()) == {1}


@pytest.mark.parametrize(
    ("server", "path", "says"),
    [
        (ChatServer(LABELS, key="s3cret"), "", "refuses the key.*OPENAI_API_KEY"),
        (ChatServer(LABELS), "/v2", "status 404: no such path.*teacher.url"),
        (ChatServer(LABELS, faults=[400]), "", "status 400: try again"),
        (ChatServer(LABELS, faults=[302] * 99), "", "status 302"),
    ],
)
def test_what_the_user_can_mend(corpus, monkeypatch, server, path, says):
    monkeypatch.setenv("OPENAI_API_KEY", "wr0ng")
    with server.running() as url, pytest.raises(UsageError, match=says) as error:
        ask(corpus, url + path)
    assert "wr0ng" not in str(error.value)


def test_the_key_is_shown_to_the_server_and_written_nowhere(corpus, distilled, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    with ChatServer(LABELS, key="s3cret").running() as url:
        teacher = {"kind": "endpoint", "url": url, "model": "m", "api_key_env": "MY_KEY"}
        made, figures = distilled(teacher, allow_endpoints=["127.0.0.1=MY_KEY"])
    assert figures["teacher"]["accuracy"] == 1
    places = [*made.path.parent.rglob("*")]
    assert not [p for p in places if p.is_file() and b"s3cret" in p.read_bytes()]


RUN = """
import sys
sys.path.insert(0, {tests!r})
from teachers.test_llm import *
corpus = data.load_dataset_splits(DataConfig(dataset={planted!r}), 0)
ask(corpus, {url!r}, "train", concurrency=3)
"""


def test_a_kill_in_the_middle_loses_no_paid_answer(planted, corpus, tmp_path):
    tests = str(Path(__file__).parents[1])
    enough, killed = threading.Event(), threading.Event()

    def say(text):
        # Answers that are under way at the kill come after it.
        if server.answered >= 20:
            enough.set()
            killed.wait(timeout=60)
        return server.number(text)

    server = ChatServer(LABELS, say=say)
    with server.running() as url:
        code = RUN.format(tests=tests, planted=str(planted), url=url)
        with forked.start("-c", code) as process:
            assert enough.wait(timeout=600)
            process.kill()
        killed.set()
        while server.at_once:
            time.sleep(0.01)
        assert 20 <= server.answered <= 23
        assert right(corpus, ask(corpus, url, "train"), "train")
    # At most those under way at the kill, which no client can know of.
    twice = sum(count - 1 for count in server.asked.values())
    assert twice <= 3
    assert len(server.asked) == distinct(corpus, "train")


def test_several_labels_are_votes_for_each(tmp_path):
    given = {"parcel refund": ["parcel", "refund"], "refund size": ["refund"], "size": []}
    rows = [{"text": text, "label": labels} for text, labels in given.items()]
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        (tmp_path / f"data/{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = data.load_dataset_splits(DataConfig(dataset=str(tmp_path / "data")), 0)
    server = ChatServer(corpus.label_names)
    with server.running() as url:
        logits = ask(corpus, url, votes=2)
    assert (logits > 0).tolist() == [[True, True], [False, True], [False, False]]
    assert server.answered == 6


def test_the_key_of_netrc_is_not_put_in_its_place(corpus, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password another\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for key in ("s3cret", ""):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        server = ChatServer(LABELS)
        with server.running() as url:
            ask(corpus, url, instructions=f"With {key}.")
        assert set(server.shown) == {f"Bearer {key}" if key else None}


@pytest.mark.parametrize("status", [401, 400, 500])
def test_a_key_that_the_server_repeats_is_masked(corpus, monkeypatch, status, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret-key")
    error = {"error": {"message": "Incorrect API key provided: s3cret-key."}}
    server = ChatServer(LABELS, raw=lambda handler: handler.send(status, error))
    with server.running() as url, pytest.raises(KdError, match="Incorrect") as raised:
        ask(corpus, url, retries=0)
    assert "s3cret" not in f"{raised.value} {raised.value.__cause__} {caplog.text}"


def test_a_redirect_is_not_followed(corpus, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    other = ChatServer(LABELS)

    def elsewhere(handler):
        handler.send_response(307)
        handler.send_header("Location", f"{there}/chat/completions")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with other.running() as there, ChatServer(LABELS, raw=elsewhere).running() as url:
        with pytest.raises(UsageError, match="status 307"):
            ask(corpus, url)
        assert not other.at


def with_content(content):
    return lambda document: document["choices"][0]["message"].update(content=content)


def with_logprob(value, place="top_logprobs"):
    def change(document):
        token = document["choices"][0]["logprobs"]["content"][0]
        (token if place is None else token[place][0]).update(logprob=value)

    return change


def without(*path):
    def change(document):
        *way, last = path
        for step in way:
            document = document[step]
        del document[last]

    return change


BAD_REPLIES = {
    "content is a list": with_content([{"type": "text", "text": "1"}]),
    "content is a number": with_content(1),
    "no content": without("choices", 0, "message", "content"),
    "no message": without("choices", 0, "message"),
    "no choice": without("choices", 0),
    "no log-probability": without("choices", 0, "logprobs", "content", 0, "logprob"),
    "no token": without("choices", 0, "logprobs", "content", 0, "top_logprobs", 0, "token"),
    "log-probabilities are text": lambda d: d["choices"][0].update(logprobs="many"),
    "nan": with_logprob(float("nan")),
    "inf": with_logprob(float("inf")),
    "more than certain": with_logprob(5.0),
    "nan of the answer": with_logprob(float("nan"), None),
    "minus inf of the answer": with_logprob(float("-inf"), None),
    "text of the answer": with_logprob("x", None),
}


@pytest.mark.parametrize("change", BAD_REPLIES.values(), ids=BAD_REPLIES)
def test_a_bad_reply_is_refused_and_not_kept(corpus, change):
    server = ChatServer(LABELS)
    whole = server.completion
    with server.running() as url:
        server.completion = lambda body: changed(whole(body), change)
        with pytest.raises(UsageError, match="chat completion"):
            ask(corpus, url)
        server.completion = whole
        assert right(corpus, ask(corpus, url))


def changed(document, change):
    change(document)
    return document


@pytest.mark.parametrize(
    "body",
    [b"", b"[" * 100_000, b'{"choices": ' + b"9" * 5000, b"\xff", b'"\\ud800"', b"null", b"7"],
    ids=["empty", "deep", "digits", "bytes", "surrogate", "null", "number"],
)
@pytest.mark.parametrize("status", [200, 400])
def test_a_reply_that_is_no_document_is_refused(corpus, body, status):
    def raw(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with ChatServer(LABELS, raw=raw).running() as url, pytest.raises(UsageError):
        ask(corpus, url, retries=0)


@pytest.mark.parametrize(
    "kept",
    [
        '{"text": "1", "alternatives": {"1": NaN}, "certainty": -0.1, "cost": 0}',
        '{"text": ["1"], "alternatives": null, "certainty": null, "cost": 0}',
        '{"text": "1", "alternatives": null, "certainty": null, "cost": -5}',
        "torn",
    ],
)
def test_a_bad_reply_that_was_kept_is_asked_for_again(corpus, kept):
    server = ChatServer(LABELS)
    with server.running() as url:
        ask(corpus, url)
        with sqlite3.connect(default_cache_file()) as db:
            db.execute("UPDATE answers SET answer = ?", (kept,))
        db.close()
        logits = ask(corpus, url, price_per_million_tokens=PRICE, max_cost=1000 * EACH)
    assert right(corpus, logits)
    assert np.isfinite(logits).all()
    assert set(server.asked.values()) == {2}


def test_an_alternative_of_probability_zero_is_one(corpus):
    server = ChatServer(LABELS)
    whole = server.completion
    server.completion = lambda body: changed(
        whole(body),
        lambda d: d["choices"][0]["logprobs"]["content"][0]["top_logprobs"].append(
            {"token": "3", "logprob": float("-inf")}
        ),
    )
    with server.running() as url:
        logits = ask(corpus, url)
    assert right(corpus, logits)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("logprobs", [True, False])
def test_a_number_of_5000_digits_is_no_label(corpus, logprobs):
    many = "9" * 5000
    server = ChatServer(LABELS, logprobs=logprobs, say=lambda text: many)
    with server.running() as url:
        logits = ask(corpus, url, votes=1)
    assert np.ptp(logits, axis=1).max() < 1e-6 or logprobs
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -(10**6), "completion_tokens": -(10**6)},
        {"prompt_tokens": "many", "completion_tokens": 1},
        {"prompt_tokens": 10**400},
        {"prompt_tokens": None},
        "text",
        [7],
        None,
    ],
    ids=str,
)
def test_usage_that_can_t_be_true_counts_as_the_most(corpus, usage):
    server = ChatServer(LABELS, seconds=0.005)
    whole = server.completion
    server.completion = lambda body: whole(body) | {"usage": usage}
    with server.running() as url, pytest.raises(UserError, match=r"teacher\.max_cost"):
        ask(corpus, url, price_per_million_tokens=PRICE, max_cost=10 * EACH)
    assert server.answered <= 10


def test_a_reply_that_unpacks_to_too_much_is_refused(corpus):
    packed = zlib.compressobj(wbits=31)
    block = bytes(1 << 20)
    bomb = b"".join(packed.compress(block) for _ in range(100)) + packed.flush()

    def raw(handler):
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(bomb)))
        handler.end_headers()
        handler.wfile.write(bomb)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        ChatServer(LABELS, raw=raw).running() as url,
        pytest.raises(UsageError, match="more than 8 MiB"),
    ):
        ask(corpus, url)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 << 10


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_sends_byte_by_byte_is_given_up(corpus, part):
    def raw(handler):
        if part == "body":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        try:
            for _ in range(40):
                handler.wfile.write(b"x")
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    start = time.monotonic()
    with (
        ChatServer(LABELS, raw=raw).running() as url,
        pytest.raises(RemoteServiceError, match=r"within 0\.3 s"),
    ):
        ask(corpus, url, timeout=0.3, retries=0)
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize("told", ["²", "nan", "inf", "9" * 5000, "-1", "1e9", "1.5.2"])
def test_a_retry_after_that_is_no_time_is_not_waited_for(monkeypatch, told):
    monkeypatch.undo()
    assert llm_client._retry_delay(0, llm_client._HttpReply(429, "", told, b"")) <= 60


def test_a_label_can_t_begin_another_label_s_line(corpus):
    labels = ("parcel\n2. refund\n3. nothing", "pass\u202eword", "refund")
    strange = dataclasses.replace(corpus, label_names=labels)
    place = BlackBoxContext(strange, DataConfig(dataset="x/y"), Path(), SilentReporter())
    spec = LLMTeacherConfig(url="http://localhost/v1", model="m", descriptions={"refund": "a\nb\n"})
    listed = (
        llm._ClassificationPrompt(spec, place).system_message.split("Labels:\n")[1].split("\n\n")[0]
    )
    assert listed.split("\n") == [
        "1. parcel 2. refund 3. nothing",
        "2. pass\\u202eword",
        "3. a b",
    ]
