"""A client for OpenAI's chat completions: retries, rate limit and budget."""

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
    CostLimitError,
    ExternalError,
    KdError,
    LogprobsUnsupportedError,
    RemoteServiceError,
    UsageError,
    UserError,
)
from kdcli.recipe.black_box_teachers import LLMTeacherConfig
from kdcli.recipe.endpoint_urls import is_loopback_host, url_host

_MAX_RETRY_DELAY = 60.0
# Unpacked; log-probabilities of 200 tokens take a twentieth of it.
_MAX_REPLY_BYTES = 8 << 20
_RETRYABLE_STATUSES = (408, 409, 429)
# Errors that a retry may solve.
_RETRYABLE_ERRORS = (
    exceptions.ConnectionError,
    exceptions.ChunkedEncodingError,
    exceptions.ContentDecodingError,
)
_MAX_CHAT_OVERHEAD_TOKENS = 50  # upper bound of what a chat template adds


# In float32 a log-probability may lie slightly above 0.
LogProbability = Annotated[float, Field(le=0.01), AfterValidator(lambda value: min(value, 0.0))]
_TokenCount = Annotated[int, Field(ge=0, le=10**9)]


class ChatResponse(BaseModel):
    """A validated response.

    Attributes:
        text: The message.
        alternatives: Log-probabilities of the first token's alternatives; None if not returned.
        certainty: Log-probability of the whole message; None if not returned.
        cost: In the currency of the prices.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    text: str
    alternatives: dict[str, LogProbability] | None
    certainty: LogProbability | None
    cost: float = Field(ge=0)

    def to_json(self) -> str:
        """Return the response as JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json_or_none(cls, text: str) -> "ChatResponse | None":
        """Parse the JSON of `to_json`; None if it is unusable."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None


class _Alternative(BaseModel):
    token: str
    logprob: LogProbability  # some servers send minus infinity for a probability of 0


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
    prompt_tokens: _TokenCount
    completion_tokens: _TokenCount | None = None


class _CompletionDocument(BaseModel):
    """The fields of a reply that kd reads."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: Any = None


@dataclass(frozen=True)
class _HttpReply:
    """A complete HTTP reply."""

    status: int
    reason: str
    retry_after: str
    body: bytes


class ChatClient:
    """A client of one server; several threads may call `request_completion` at a time.

    Args:
        config: URL, rate limit, prices and budget.
        api_key: Sent as a bearer token, unless it is None.
        total_cost: Cost of the responses so far.
    """

    def __init__(
        self, config: LLMTeacherConfig, api_key: str | None = None, total_cost: float = 0.0
    ) -> None:
        self.config, self.total_cost, self._api_key = config, total_cost, api_key
        self._reserved_cost, self._requests_in_flight, self._next_request_time = 0.0, 0, 0.0
        self._budget_changed = threading.Condition()
        self._rate_limit_lock = threading.Lock()
        self._stop_event = threading.Event()
        self._thread_local = threading.local()

    def stop(self) -> None:
        """Stop starting and retrying requests."""
        self._stop_event.set()
        with self._budget_changed:
            self._budget_changed.notify_all()

    def request_completion(self, request_body: Mapping[str, Any]) -> ChatResponse:
        """Send a request, and wait for the response.

        Args:
            request_body: The request without the model.

        Raises:
            CostLimitError: It could exceed the budget.
            LogprobsUnsupportedError: The server refuses the parameter `logprobs`.
            UsageError: The key or the URL is wrong, or the server refuses the request.
            RemoteServiceError: There is no response, after all retries.
        """
        content = {"model": self.config.model, **request_body}
        most = self._max_request_cost(content)
        self._reserve_budget(most)
        cost = most
        try:
            answer = self._to_response(self._post_with_retries(content), most)
            cost = answer.cost
        except KdError:
            cost = 0.0
            raise
        finally:
            with self._budget_changed:
                self._requests_in_flight -= 1
                # Rounding errors of sums and differences would remain.
                self._reserved_cost = (
                    self._reserved_cost - most if self._requests_in_flight else 0.0
                )
                self.total_cost += cost
                self._budget_changed.notify_all()
        return answer

    def _max_request_cost(self, payload: Mapping[str, Any]) -> float:
        """Return the maximum cost of a request: a token has at least one byte."""
        if self.config.price_per_million_tokens is None:
            return 0.0
        size = (
            len(json.dumps(payload["messages"], ensure_ascii=False).encode())
            + _MAX_CHAT_OVERHEAD_TOKENS
        )
        return _request_cost(self.config.price_per_million_tokens, size, int(payload["max_tokens"]))

    def _reserve_budget(self, max_cost: float) -> None:
        ceiling = self.config.max_cost
        with self._budget_changed:
            # Requests in flight may cost less than their maximum.
            while (
                ceiling is not None
                and self.total_cost + self._reserved_cost + max_cost > ceiling
                and self._requests_in_flight
                and not self._stop_event.is_set()
            ):
                self._budget_changed.wait()
            if ceiling is not None and self.total_cost + max_cost > ceiling:
                raise CostLimitError(
                    f"The responses have cost {self.total_cost:.4f}, and one more may exceed "
                    f"{ceiling:g} (teacher.max_cost).",
                    "They are cached: raise teacher.max_cost and run the same command again.",
                )
            self._reserved_cost += max_cost
            self._requests_in_flight += 1

    def _post_with_retries(self, payload: Mapping[str, Any]) -> _CompletionDocument:
        trouble = ""
        for attempt in range(self.config.retries + 1):
            self._wait_for_rate_limit()
            reply = None
            try:
                reply = self._send_within_timeout(payload)
            except requests.Timeout:
                trouble = f"no response within {self.config.timeout:g} s"
            except _RETRYABLE_ERRORS as error:
                trouble = f"no response ({type(error).__name__})"
            except requests.RequestException as error:
                why = self._mask_api_key(str(error))
                raise UsageError(f"{self.config.url} can't be reached: {why}") from None
            if reply is not None:
                if reply.status == requests.codes.ok:
                    return self._parse_completion(reply)
                trouble = f"status {reply.status}: {self._server_error_message(reply)}"
                if reply.status not in _RETRYABLE_STATUSES and reply.status < 500:
                    raise self._refusal_error(reply, trouble, payload)
            if attempt < self.config.retries and self._stop_event.wait(
                _retry_delay(attempt, reply)
            ):
                break
        raise RemoteServiceError(
            f"{self.config.url} doesn't respond: {trouble}, {self.config.retries + 1} times.",
            "Responses so far are cached: run the same command again to continue.",
        )

    def _send_within_timeout(self, payload: Mapping[str, Any]) -> _HttpReply:
        """Send a request, and return the reply if it is complete in time.

        A socket's timeout is that of each read: a server that sends a byte now and then, or a name
        that doesn't resolve, would block the caller forever. So another thread waits.

        Raises:
            requests.RequestException: There is no reply in time.
            UsageError: The reply is too large.
        """
        session, coming, given_up = self._thread_session(), Future[_HttpReply](), threading.Event()

        def wait() -> None:
            try:
                coming.set_result(self._send_request(session, payload, given_up))
            except BaseException as error:
                coming.set_exception(error)

        threading.Thread(target=wait, daemon=True).start()
        try:
            return coming.result(self.config.timeout)
        except FutureTimeoutError:
            given_up.set()
            del self._thread_local.session
            raise requests.Timeout from None

    def _send_request(
        self, session: requests.Session, payload: Mapping[str, Any], given_up: threading.Event
    ) -> _HttpReply:
        with session.post(
            f"{self.config.url}/chat/completions",
            json=payload,
            headers={} if self._api_key is None else {"Authorization": f"Bearer {self._api_key}"},
            timeout=self.config.timeout,
            allow_redirects=False,  # the key is for this address alone
            stream=True,
        ) as reply:
            body = bytearray()
            for part in reply.iter_content(1 << 16):
                body += part
                if len(body) > _MAX_REPLY_BYTES:
                    raise UsageError(
                        f"{self.config.url} answers with more than {_MAX_REPLY_BYTES >> 20} MiB.",
                        "Check teacher.url: no chat completion is so long.",
                    )
                if given_up.is_set():
                    break
            retry_after = reply.headers.get("Retry-After", "")
            return _HttpReply(reply.status_code, str(reply.reason), retry_after, bytes(body))

    def _wait_for_rate_limit(self) -> None:
        if self.config.requests_per_minute is not None:
            with self._rate_limit_lock:
                now = time.monotonic()
                turn = max(now, self._next_request_time)
                self._next_request_time = turn + 60 / self.config.requests_per_minute
            self._stop_event.wait(turn - now)
        if self._stop_event.is_set():
            raise ExternalError("Another request has failed.")

    def _thread_session(self) -> requests.Session:
        if not hasattr(self._thread_local, "session"):
            session = requests.Session()
            # Otherwise requests would replace the key by the host's entry in ~/.netrc.
            session.trust_env = False
            bundles = map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
            session.verify = next(filter(None, bundles), True)
            if not is_loopback_host(url_host(self.config.url)):
                session.proxies.update(requests.utils.get_environ_proxies(self.config.url))
            self._thread_local.session = session
        found: requests.Session = self._thread_local.session
        return found

    def _mask_api_key(self, text: str) -> str:
        """Return the text without the key, which a server may echo."""
        return text.replace(self._api_key, "…") if self._api_key else text

    def _refusal_error(
        self, reply: _HttpReply, problem: str, payload: Mapping[str, Any]
    ) -> UserError:
        if reply.status in (401, 403):
            variable = self.config.api_key_env
            return UsageError(
                f"{self.config.url} refuses the key: {problem}.",
                "Name the environment variable that holds it: teacher.api_key_env."
                if variable is None
                else f"Set the environment variable {variable}.",
            )
        if "logprobs" in payload and b"logprob" in reply.body.lower():
            return LogprobsUnsupportedError(f"{self.config.url} returns no log-probabilities.")
        return UsageError(
            f"{self.config.url} refuses a request for the model {self.config.model}: {problem}.",
            "Check teacher.url and teacher.model.",
        )

    def _parse_completion(self, reply: _HttpReply) -> _CompletionDocument:
        try:
            return _CompletionDocument.model_validate_json(reply.body)
        except ValidationError as error:
            part = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
            raise UsageError(
                f"{self.config.url} answers with something other than a chat completion: "
                f"{f'{part} is wrong' if part else 'it is not JSON'}.",
                "Check teacher.url: it ends before /chat/completions.",
            ) from None

    def _to_response(self, document: _CompletionDocument, max_cost: float) -> ChatResponse:
        choice, cost = document.choices[0], max_cost
        tokens = (choice.logprobs and choice.logprobs.content) or None
        if (
            self.config.price_per_million_tokens is not None
            and (usage := _parse_usage(document)) is not None
        ):
            cost = _request_cost(
                self.config.price_per_million_tokens,
                usage.prompt_tokens,
                usage.completion_tokens or 0,
            )
        return ChatResponse(
            text=self._mask_api_key(choice.message.content or ""),
            alternatives=tokens
            and {
                self._mask_api_key(top.token): top.logprob
                for top in tokens[0].top_logprobs or ()
                if math.isfinite(top.logprob)
            },
            # Many servers send -9999 for a probability of 0.
            certainty=tokens and max(sum(token.logprob for token in tokens), -1e9),
            cost=cost,
        )

    def _server_error_message(self, reply: _HttpReply) -> str:
        try:
            error = from_json(reply.body)["error"]
            message = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, LookupError, TypeError):
            message = reply.reason
        return self._mask_api_key(message)[:200].rstrip(".")


def _parse_usage(document: _CompletionDocument) -> _Usage | None:
    """Return the server's token counts; None if they are missing or implausible."""
    try:
        return _Usage.model_validate(document.usage)
    except ValidationError:
        return None


def _request_cost(
    price_per_million: tuple[float, float], prompt_tokens: int, completion_tokens: int
) -> float:
    return (price_per_million[0] * prompt_tokens + price_per_million[1] * completion_tokens) / 1e6


def _retry_delay(attempt: int, reply: _HttpReply | None) -> float:
    """Return the seconds to wait: Retry-After, or exponential backoff with jitter."""
    retry_after = "" if reply is None else reply.retry_after
    if re.fullmatch(r"\d{1,9}(\.\d{0,9})?", retry_after, re.ASCII):
        return min(float(retry_after), _MAX_RETRY_DELAY)
    return min(2.0**attempt, _MAX_RETRY_DELAY) * random.uniform(0.5, 1.0)
