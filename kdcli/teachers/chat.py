"""Asking a server that speaks OpenAI's chat completions: retries, pace, and what it costs."""

import json
import os
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

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

_LONGEST_WAIT = 60.0
_TRY_AGAIN = (408, 409, 429)
_TOKENS_OF_FORM = 50  # what a chat adds to a request's own bytes, at the most


@dataclass(frozen=True)
class Answer:
    """What the server said.

    Attributes:
        text: The message.
        alternatives: Of its first token, by token: log-probabilities; None where none are given.
        certainty: The message's own log-probability; None likewise.
        cost: In the price's currency.
    """

    text: str
    alternatives: Mapping[str, float] | None
    certainty: float | None
    cost: float

    def written(self) -> str:
        """As JSON."""
        return json.dumps(vars(self))

    @classmethod
    def read(cls, text: str) -> "Answer":
        """What `written` gave."""
        return cls(**json.loads(text))


class Chat:
    """A server; its `ask` may be called by several threads at a time.

    Args:
        spec: Where it is, and how it may be used.
        spent: What the answers that are there have cost.
    """

    def __init__(self, spec: EndpointSpec, spent: float = 0.0) -> None:
        self.spec, self.spent = spec, spent
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

    def _post(self, content: Mapping[str, Any]) -> Any:
        trouble = ""
        for attempt in range(self.spec.retries + 1):
            self._wait_for_turn()
            try:
                reply = self._session().post(
                    f"{self.spec.url}/chat/completions",
                    json=content,
                    headers=self._headers(),
                    timeout=self.spec.timeout,
                    allow_redirects=False,  # the key is for this address alone
                )
            except (requests.ConnectionError, requests.Timeout) as error:
                reply, trouble = None, f"no answer ({type(error).__name__})"
            except requests.RequestException as error:
                raise UsageError(f"{self.spec.url} can't be asked: {error}") from error
            if reply is not None:
                if reply.status_code == requests.codes.ok:
                    return self._document(reply)
                trouble = f"status {reply.status_code}: {_reason(reply)}"
                if reply.status_code not in _TRY_AGAIN and reply.status_code < 500:
                    raise self._refused(reply, trouble, content)
            if attempt < self.spec.retries and self._stop.wait(_pause(attempt, reply)):
                break
        raise HubError(
            f"{self.spec.url} doesn't answer: {trouble}, {self.spec.retries + 1} times.",
            "The answers that came are kept: run the same command again to go on.",
        )

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
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.spec.key_variable, "").strip()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _refused(
        self, reply: requests.Response, trouble: str, content: Mapping[str, Any]
    ) -> MendableError:
        if reply.status_code in (401, 403):
            return UsageError(
                f"{self.spec.url} refuses the key: {trouble}.",
                f"Set the environment variable {self.spec.key_variable}.",
            )
        if "logprobs" in content and "logprob" in reply.text.lower():
            return NoSuchParameterError(f"{self.spec.url} gives no log-probabilities.")
        return UsageError(
            f"{self.spec.url} refuses a request for the model {self.spec.model}: {trouble}.",
            "Look at teacher.url and teacher.model.",
        )

    def _document(self, reply: requests.Response) -> Any:
        try:
            document = reply.json()
            document["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise UsageError(
                f"{self.spec.url} answers with something else than a chat completion.",
                "Look at teacher.url: it ends where /chat/completions begins.",
            ) from error
        return document

    def _answer(self, document: Mapping[str, Any], most: float) -> Answer:
        choice = document["choices"][0]
        tokens = (choice.get("logprobs") or {}).get("content") or None
        usage, cost = document.get("usage") or {}, most
        if self.spec.price is not None and "prompt_tokens" in usage:
            cost = _price(
                self.spec.price, usage["prompt_tokens"], usage.get("completion_tokens") or 0
            )
        return Answer(
            text=choice["message"]["content"] or "",
            alternatives=tokens
            and {top["token"]: top["logprob"] for top in tokens[0].get("top_logprobs") or ()},
            certainty=tokens and sum(token["logprob"] for token in tokens),
            cost=cost,
        )


def _price(price: tuple[float, float], prompt: int, answer: int) -> float:
    return (price[0] * prompt + price[1] * answer) / 1e6


def _reason(reply: requests.Response) -> str:
    try:
        told = reply.json()["error"]
        return str(told["message"] if isinstance(told, dict) else told)[:200].rstrip(".")
    except (ValueError, LookupError, TypeError):
        return str(reply.reason)


def _pause(attempt: int, reply: requests.Response | None) -> float:
    """Seconds to wait: what the server says, or twice as long each time, and a bit of chance."""
    told = "" if reply is None else reply.headers.get("Retry-After", "")
    if told.replace(".", "", 1).isdigit():
        return min(float(told), _LONGEST_WAIT)
    return min(2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
