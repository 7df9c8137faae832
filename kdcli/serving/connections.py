"""A connection of uvicorn that gives up clients which send or read too slowly."""

import asyncio
import json
from typing import Any

from kdcli.serving.errors import error_content

# Seconds for the head of a request to arrive.
_HEAD_TIMEOUT = 10.0


def create_protocol_class(
    *, timeout: float, keep_alive: float, max_connections: int
) -> type[asyncio.Protocol]:
    """Create a class of connections.

    uvicorn alone waits for ever for a head that is not complete, and for a client that does not
    read its answer.

    Args:
        timeout: Seconds in which a client has to read a part of an answer.
        keep_alive: Seconds that a connection may idle between requests.
        max_connections: Connections; further ones get 503.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class PatientProtocol(base):
        """A connection with a deadline for the client."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                self._refuse(503, "The server has too many connections.")
            self._set_timer(_HEAD_TIMEOUT)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self._is_answering():
                self._wait_for_request()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait_for_request()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._set_timer(timeout)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._wait_for_request()

        def connection_lost(self, error: Exception | None) -> None:
            self._set_timer(None)
            super().connection_lost(error)

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "The request is no valid HTTP.")

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait_for_request(self) -> None:
            """Give the client a time for its next request; no deadline during an answer."""
            # A client that does not read has a deadline already.
            if not self.flow.write_paused:
                self._set_timer(None if self._is_answering() else keep_alive + _HEAD_TIMEOUT)

        def _set_timer(self, seconds: float | None) -> None:
            """Abort the connection after a time, or never."""
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            if seconds is not None:
                self._timer = self.loop.call_later(seconds, self.transport.abort)

        def _refuse(self, status: int, message: str) -> None:
            body = json.dumps(error_content(status, message)).encode()
            head = (
                f"HTTP/1.1 {status} {'Bad Request' if status == 400 else 'Service Unavailable'}\r\n"
                "content-type: application/json\r\nconnection: close\r\n"
                f"content-length: {len(body)}\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()

    return PatientProtocol
