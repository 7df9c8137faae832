"""Read requests and write answers as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import anyio
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from kdcli.serving.errors import RequestError
from kdcli.serving.limits import ServingLimits

_INVALID_JSON = "json_invalid"


class RequestModel(BaseModel):
    """A request's JSON: types as they are written, and no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid")


RequestModelType = TypeVar("RequestModelType", bound=RequestModel)


async def parse_body(
    request: Request, model: type[RequestModelType], limits: ServingLimits
) -> RequestModelType:
    """Read a request's body and check its form.

    Raises:
        RequestError: The body is too large (413), too slow (408), no JSON (400), or has other keys
            or types (422).
    """
    body = await _read_body(request, limits)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _describe(error, model) from None


async def _read_body(request: Request, limits: ServingLimits) -> bytes:
    too_large = RequestError(413, f"The body has more than {limits.max_body_bytes:,} bytes.")
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limits.max_body_bytes:
        raise too_large
    body = bytearray()
    try:
        with anyio.fail_after(limits.timeout):
            async for part in request.stream():
                body += part
                if len(body) > limits.max_body_bytes:
                    raise too_large
    except TimeoutError:
        message = f"The body did not arrive within {limits.timeout:g} s."
        raise RequestError(408, message, {"Connection": "close"}) from None
    return bytes(body)


def _describe(error: ValidationError, model: type[RequestModel]) -> RequestError:
    """Name the key at fault; never the value, which may be a text."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == _INVALID_JSON:
        return RequestError(400, f"The body is no JSON: {first['msg'].partition(': ')[2]}.")
    if not first["loc"]:
        return RequestError(422, "The body is no JSON object.")
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        keys = ", ".join(model.model_fields)
        return RequestError(
            422, f"{_path(first['loc'])}: there is no such key. The body's: {keys}."
        )
    field = model.model_fields.get(key)
    if field is not None and field.description:
        return RequestError(422, f"{key}: expected {field.description}")
    return RequestError(422, f"{_path(first['loc'])}: {first['msg']}.")


def _path(location: Sequence[int | str]) -> str:
    return ".".join(map(str, location))[:200]


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with JSON in UTF-8."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type="application/json")


def label_scores(rows: Sequence[Sequence[tuple[str, float]]]) -> list[list[dict[str, Any]]]:
    """Write ranked labels as Hugging Face's services do."""
    return [[{"label": label, "score": score} for label, score in row] for row in rows]
