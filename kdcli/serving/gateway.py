"""ASGI middleware around all routes: token, headers, metrics, log, and errors as JSON."""

import hmac
import logging
import time
import traceback
from collections.abc import Sequence
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kdcli.serving.errors import RequestError, error_content
from kdcli.serving.metrics import ServingMetrics
from kdcli.serving.protocols.base import json_response

_LOGGER = logging.getLogger("kdcli.serving")
# Probes have no token; the page and the description of the routes hold nothing of the model.
_OPEN_PATHS = frozenset(
    {"/health", "/ready", "/v2/health/live", "/v2/health/ready", "/openapi.json"}
)
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_CLIENT_CLOSED = 499


class Gateway:
    """Check the token, count and log requests, and turn every error into JSON.

    The log names route, status, time and client, never a query or a text.

    Args:
        app: The application.
        metrics: Counters.
        api_keys: Tokens, of which a request needs one. None needed if empty.
        log_requests: Log each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: ServingMetrics,
        api_keys: Sequence[str] = (),
        log_requests: bool = False,
    ) -> None:
        self._app, self._metrics, self._log_requests = app, metrics, log_requests
        self._api_keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), _CLIENT_CLOSED

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        try:
            if not self._is_allowed(scope):
                headers = {"WWW-Authenticate": "Bearer"}
                raise RequestError(401, "A token is missing or wrong.", headers)
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            pass
        except Exception as error:
            if not isinstance(error, RequestError):
                error = _to_internal_error(error)
            if status == _CLIENT_CLOSED:
                content = error_content(error.status, error.message)
                response = json_response(content, error.status, error.headers)
                await response(scope, receive, send_with_headers)
        finally:
            # A path that no route has may hold anything.
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            if self._log_requests:
                client = (scope.get("client") or ("-",))[0]
                _LOGGER.info(
                    "%s %s %s %s %.1f ms", client, scope["method"], route, status, 1000 * seconds
                )

    def _is_allowed(self, scope: Scope) -> bool:
        is_page = scope["path"] == "/" and scope["method"] in ("GET", "HEAD")
        if not self._api_keys or is_page or scope["path"] in _OPEN_PATHS:
            return True
        stated: dict[bytes, Any] = dict(scope["headers"])
        kind, _, key = stated.get(b"authorization", b"").partition(b" ")
        # All are compared, each in constant time.
        matches = [hmac.compare_digest(key.strip(), each) for each in self._api_keys]
        return kind.lower() == b"bearer" and any(matches)


def _to_internal_error(error: Exception) -> RequestError:
    """Log where an error arose; its message may quote a text."""
    place = "".join(traceback.format_tb(error.__traceback__)[-3:])
    _LOGGER.error("Internal error: %s\n%s", type(error).__name__, place)
    return RequestError(500, "Internal error of the server; its log has the place.")
