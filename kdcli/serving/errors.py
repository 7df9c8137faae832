"""Errors that a client gets as JSON."""

from collections.abc import Mapping

# The names that text-embeddings-inference gives its errors, by status.
_ERROR_TYPES = {
    401: "unauthorized",
    408: "timeout",
    413: "validation",
    422: "validation",
    429: "overloaded",
    500: "backend",
    503: "unhealthy",
    504: "timeout",
}


class RequestError(Exception):
    """Answer a request with a status and a sentence.

    Args:
        status: HTTP status.
        message: One sentence.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


def error_content(status: int, message: str) -> dict[str, str]:
    """Return an error's JSON: `error` is the key that all three protocols use."""
    return {"error": message, "error_type": _ERROR_TYPES.get(status, "request")}
