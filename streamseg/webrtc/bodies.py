"""Reading a request's body: its type, its size and its time are bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio
from pydantic import BaseModel, ValidationError

from streamseg.webrtc.refusal import Refusal

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["explain", "parse_json", "read_body", "read_text"]

M = TypeVar("M", bound=BaseModel)


async def read_body(
    request: web.Request, *, limit: int, timeout_s: float, least_rate: float = 0.0
) -> bytes:
    """Return a request's body.

    Args:
        request: Whose body.
        limit: How large it may be, in bytes.
        timeout_s: How long it may take, in seconds.
        least_rate: How fast it must come once a sixth of that time is over, in bytes per second.

    Raises:
        Refusal: 413, 408, or 415 if it is compressed; the connection is then closed.
    """
    closing = {"Connection": "close"}
    too_large = Refusal(413, f"the body is over {limit} bytes", headers=closing)
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        # A few bytes could become any number of them.
        raise Refusal(
            415,
            "the body is compressed: send it as it is",
            headers={"Accept-Encoding": "identity", **closing},
        )
    parts: list[bytes] = []
    size = 0
    began_s = anyio.current_time()
    with anyio.CancelScope() as scope:
        while True:
            spare_s = timeout_s
            if least_rate:
                spare_s = min(spare_s, timeout_s / 6 + size / least_rate)
            scope.deadline = began_s + spare_s
            part = await request.content.readany()
            if not part:
                break
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
    if scope.cancelled_caught:
        taken_s = anyio.current_time() - began_s
        raise Refusal(
            408,
            f"the body has not come within {taken_s:.3g} s: it comes too slowly",
            headers=closing,
        )
    return b"".join(parts)


async def read_text(request: web.Request, kind: str, *, limit: int, timeout_s: float) -> str:
    """Return a request's body as text.

    Args:
        request: Whose body.
        kind: The content type that it must say.
        limit: How large it may be, in bytes.
        timeout_s: How long it may take, in seconds.

    Raises:
        Refusal: 415 for another type, 413, 408, or 400 if it is not UTF-8.
    """
    if request.content_type != kind or "Content-Type" not in request.headers:
        raise Refusal(415, f"expected Content-Type: {kind}", headers={"Accept": kind})
    body = await read_body(request, limit=limit, timeout_s=timeout_s)
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        raise Refusal(400, "the body is not UTF-8 text") from exc


def parse_json(kind: type[M], text: str) -> M:
    """Return a JSON object as a value of its schema.

    Raises:
        Refusal: 400, with the first thing that is wrong.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as exc:
        raise Refusal(400, explain(kind, exc)) from exc


def explain(kind: type[BaseModel], exc: ValidationError) -> str:
    """Return one line about the first thing that is wrong; nothing of the values is repeated."""
    error = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    if error["type"] == "json_invalid":
        return "this is not valid JSON"
    where = ".".join(str(part) for part in error["loc"])[:60]
    if error["type"] == "extra_forbidden":
        return f"unknown key {where!r}, expected {', '.join(kind.model_fields)}"
    if error["type"] == "missing":
        return f"{where} is missing"
    message = error["msg"][:1].lower() + error["msg"][1:]
    return f"{where}: {message}" if where else message
