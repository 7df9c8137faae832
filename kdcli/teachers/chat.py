"""Asking a server that speaks OpenAI's chat completions: retries, pace, and what it costs."""

import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Annotated, Any

import requests
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from requests import exceptions

from kdcli.errors import (
    CeilingError,
    HubError,
    KdError,
    MendableError,
    NoSuchParameterError,
    UsageError,
    WorldError,
)
from kdcli.recipe.black_box import EndpointSpec
from kdcli.recipe.endpoints import host_of, is_loopback

_LONGEST_WAIT = 60.0
_LARGEST = 8 << 20  # bytes of a reply, unpacked: log-probabilities of 200 tokens take a twentieth
_TRY_AGAIN = (408, 409, 429)
# What may go well another time.
_BROKEN_OFF = (
    exceptions.ConnectionError,
    exceptions.ChunkedEncodingError,
    exceptions.ContentDecodingError,
)
_TOKENS_OF_FORM = 50  # what a chat adds to a request's own bytes, at the most


# A logarithm of float32 may lie a little above 0.
LogProbability = Annotated[float, Field(le=0.01), AfterValidator(lambda value: min(value, 0.0))]
_Tokens = Annotated[int, Field(ge=0, le=10**9)]


class Answer(BaseModel):
    """What the server said, checked.

    Attributes:
        text: The message.
        alternatives: Of its first token, by token: log-probabilities; None where none are given.
        certainty: The message's own log-probability; None likewise.
        cost: In the price's currency.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    text: str
    alternatives: dict[str, LogProbability] | None
    certainty: LogProbability | None
    cost: float = Field(ge=0)

    def written(self) -> str:
        """As JSON."""
        return self.model_dump_json()

    @classmethod
    def read(cls, text: str) -> "Answer | None":
        """What `written` gave; None where it is no answer that can be used."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None


class _Alternative(BaseModel):
    token: str
    logprob: LogProbability  # minus infinity is what some servers say of a probability of 0


class _Token(BaseModel):
    logprob: Annotated[LogProbability, Field(allow_inf_nan=False)]
    top_logprobs: list[_Alternative] | None = None


class _LogProbabilities(BaseModel):
    content: list[_Token] | None = None


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message
    logprobs: _LogProbabilities | None = None


class _Usage(BaseModel):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens | None = None


class _Completion(BaseModel):
    """The parts of a reply that are used."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: Any = None


@dataclass(frozen=True)
class _Reply:
    """What came over the wire, in whole."""

    status: int
    reason: str
    retry_after: str
    body: bytes


class Chat:
    """A server; its `ask` may be called by several threads at a time.

    Args:
        spec: Where it is, and how it may be used.
        key: What it is shown; None where it wants none.
        spent: What the answers that are there have cost.
    """

    def __init__(self, spec: EndpointSpec, key: str | None = None, spent: float = 0.0) -> None:
        self.spec, self.spent, self._key = spec, spent, key
        self._reserved, self._under_way, self._next = 0.0, 0, 0.0
        self._free = threading.Condition()
        self._pace = threading.Lock()
        self._stop = threading.Event()
        self._local = threading.local()

    def stop(self) -> None:
        """No request is begun any more, and none is tried again."""
        self._stop.set()
        with self._free:
            self._free.notify_all()

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """Ask, and wait for the answer.

        Args:
            body: The request, but for the model.

        Raises:
            CeilingError: It might cost more than what is left.
            NoSuchParameterError: The server refuses the parameter `logprobs`.
            UsageError: The key or the address is wrong, or the server refuses the request.
            WorldError: There is no answer, however often it is asked.
        """
        content = {"model": self.spec.model, **body}
        most = self._most(content)
        self._reserve(most)
        cost = most
        try:
            answer = self._answer(self._post(content), most)
            cost = answer.cost
        except KdError:
            cost = 0.0
            raise
        finally:
            with self._free:
                self._under_way -= 1
                # What is left of sums and differences isn't always 0.
                self._reserved = self._reserved - most if self._under_way else 0.0
                self.spent += cost
                self._free.notify_all()
        return answer

    def _most(self, content: Mapping[str, Any]) -> float:
        """What a request may cost: a token is a byte at the least."""
        if self.spec.price is None:
            return 0.0
        size = len(json.dumps(content["messages"], ensure_ascii=False).encode()) + _TOKENS_OF_FORM
        return _price(self.spec.price, size, int(content["max_tokens"]))

    def _reserve(self, most: float) -> None:
        ceiling = self.spec.at_most
        with self._free:
            # Others may cost less than they might have.
            while (
                ceiling is not None
                and self.spent + self._reserved + most > ceiling
                and self._under_way
                and not self._stop.is_set()
            ):
                self._free.wait()
            if ceiling is not None and self.spent + most > ceiling:
                raise CeilingError(
                    f"The answers have cost {self.spent:.4f}, and one more may take them over "
                    f"{ceiling:g} (teacher.at_most).",
                    "They are kept: raise teacher.at_most and run the same command again to go on.",
                )
            self._reserved += most
            self._under_way += 1

    def _post(self, content: Mapping[str, Any]) -> _Completion:
        trouble = ""
        for attempt in range(self.spec.retries + 1):
            self._wait_for_turn()
            reply = None
            try:
                reply = self._within_time(content)
            except requests.Timeout:
                trouble = f"no answer within {self.spec.timeout:g} s"
            except _BROKEN_OFF as error:
                trouble = f"no answer ({type(error).__name__})"
            except requests.RequestException as error:
                why = self._masked(str(error))
                raise UsageError(f"{self.spec.url} can't be asked: {why}") from None
            if reply is not None:
                if reply.status == requests.codes.ok:
                    return self._document(reply)
                trouble = f"status {reply.status}: {self._reason(reply)}"
                if reply.status not in _TRY_AGAIN and reply.status < 500:
                    raise self._refused(reply, trouble, content)
            if attempt < self.spec.retries and self._stop.wait(_pause(attempt, reply)):
                break
        raise HubError(
            f"{self.spec.url} doesn't answer: {trouble}, {self.spec.retries + 1} times.",
            "The answers that came are kept: run the same command again to go on.",
        )

    def _within_time(self, content: Mapping[str, Any]) -> _Reply:
        """The reply, if it is there as a whole in time.

        A time given to a socket is that of each read: a server that sends a byte now and then,
        or a name that isn't resolved, would hold the caller for ever. So another thread waits.

        Raises:
            requests.RequestException: There is none.
            UsageError: It is too large.
        """
        session, coming, given_up = self._session(), Future[_Reply](), threading.Event()

        def wait() -> None:
            try:
                coming.set_result(self._exchange(session, content, given_up))
            except BaseException as error:
                coming.set_exception(error)

        threading.Thread(target=wait, daemon=True).start()
        try:
            return coming.result(self.spec.timeout)
        except FutureTimeoutError:
            given_up.set()
            del self._local.session
            raise requests.Timeout from None

    def _exchange(
        self, session: requests.Session, content: Mapping[str, Any], given_up: threading.Event
    ) -> _Reply:
        with session.post(
            f"{self.spec.url}/chat/completions",
            json=content,
            headers={} if self._key is None else {"Authorization": f"Bearer {self._key}"},
            timeout=self.spec.timeout,
            allow_redirects=False,  # the key is for this address alone
            stream=True,
        ) as reply:
            body = bytearray()
            for part in reply.iter_content(1 << 16):
                body += part
                if len(body) > _LARGEST:
                    raise UsageError(
                        f"{self.spec.url} answers with more than {_LARGEST >> 20} MiB.",
                        "Look at teacher.url: no chat completion is so long.",
                    )
                if given_up.is_set():
                    break
            retry_after = reply.headers.get("Retry-After", "")
            return _Reply(reply.status_code, str(reply.reason), retry_after, bytes(body))

    def _wait_for_turn(self) -> None:
        if self.spec.requests_a_minute is not None:
            with self._pace:
                now = time.monotonic()
                turn = max(now, self._next)
                self._next = turn + 60 / self.spec.requests_a_minute
            self._stop.wait(turn - now)
        if self._stop.is_set():
            raise WorldError("Another request has failed.")

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            session = requests.Session()
            # By itself it would put what ~/.netrc has for the host in the key's place.
            session.trust_env = False
            bundles = map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
            session.verify = next(filter(None, bundles), True)
            if not is_loopback(host_of(self.spec.url)):
                session.proxies.update(requests.utils.get_environ_proxies(self.spec.url))
            self._local.session = session
        found: requests.Session = self._local.session
        return found

    def _masked(self, text: str) -> str:
        """The text without the key, which a server may repeat."""
        return text.replace(self._key, "…") if self._key else text

    def _refused(self, reply: _Reply, trouble: str, content: Mapping[str, Any]) -> MendableError:
        if reply.status in (401, 403):
            variable = self.spec.key_variable
            return UsageError(
                f"{self.spec.url} refuses the key: {trouble}.",
                "Name the environment variable that holds it: teacher.key_variable."
                if variable is None
                else f"Set the environment variable {variable}.",
            )
        if "logprobs" in content and b"logprob" in reply.body.lower():
            return NoSuchParameterError(f"{self.spec.url} gives no log-probabilities.")
        return UsageError(
            f"{self.spec.url} refuses a request for the model {self.spec.model}: {trouble}.",
            "Look at teacher.url and teacher.model.",
        )

    def _document(self, reply: _Reply) -> _Completion:
        try:
            return _Completion.model_validate_json(reply.body)
        except ValidationError as error:
            part = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
            raise UsageError(
                f"{self.spec.url} answers with something else than a chat completion: "
                f"{f'{part} is wrong' if part else 'it is no JSON'}.",
                "Look at teacher.url: it ends where /chat/completions begins.",
            ) from None

    def _answer(self, document: _Completion, most: float) -> Answer:
        choice, cost = document.choices[0], most
        tokens = (choice.logprobs and choice.logprobs.content) or None
        if self.spec.price is not None and (usage := _usage(document)) is not None:
            cost = _price(self.spec.price, usage.prompt_tokens, usage.completion_tokens or 0)
        return Answer(
            text=self._masked(choice.message.content or ""),
            alternatives=tokens
            and {
                self._masked(top.token): top.logprob
                for top in tokens[0].top_logprobs or ()
                if math.isfinite(top.logprob)
            },
            # What many servers say of a probability of 0 is -9999.
            certainty=tokens and max(sum(token.logprob for token in tokens), -1e9),
            cost=cost,
        )

    def _reason(self, reply: _Reply) -> str:
        try:
            told = from_json(reply.body)["error"]
            told = str(told["message"] if isinstance(told, dict) else told)
        except (ValueError, LookupError, TypeError):
            told = reply.reason
        return self._masked(told)[:200].rstrip(".")


def _usage(document: _Completion) -> _Usage | None:
    """The tokens that the server counted; None where it says nothing that can be true."""
    try:
        return _Usage.model_validate(document.usage)
    except ValidationError:
        return None


def _price(price: tuple[float, float], prompt: int, answer: int) -> float:
    return (price[0] * prompt + price[1] * answer) / 1e6


def _pause(attempt: int, reply: _Reply | None) -> float:
    """Seconds to wait: what the server says, or twice as long each time, and a bit of chance."""
    told = "" if reply is None else reply.retry_after
    if re.fullmatch(r"\d{1,9}(\.\d{0,9})?", told, re.ASCII):
        return min(float(told), _LONGEST_WAIT)
    return min(2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
