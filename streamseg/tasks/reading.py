"""The bytes behind a string: a path, a URI, base64."""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from anyio import to_thread

from streamseg.errors import FileReadFailedError
from streamseg.redact import redact, redacted_url

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["read_source"]

T = TypeVar("T")

_MAX_BYTES = 256 << 20
_MAX_REDIRECTS = 10
_CHUNK_BYTES = 1 << 16
_SHOWN = 80  # letters of a source in a message
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_BASE64 = re.compile(r"[A-Za-z0-9+/=_-]*")


async def read_source(source: str | os.PathLike[str], *, timeout_s: float) -> tuple[bytes, str]:
    """Return the bytes that a string or path stands for, and its name for messages.

    Args:
        source: A path, a ``file://``, ``http(s)://`` or ``data:`` URI, or base64.
        timeout_s: How long a URL may take, in seconds.

    Raises:
        FileReadFailedError: If there is nothing to read.
    """
    if not isinstance(source, str):
        path = os.fspath(source)
        name = _shortened(path, len(path))  # a path it is, so all of it is wanted
        return await _in_thread(_read_file, path, name), name
    if source[:5].lower() == "data:":
        return await _in_thread(_from_data_uri, source), "the data URI"
    scheme = _SCHEME.match(source)
    if scheme is not None:
        name = _shortened(redacted_url(source))
        kind = scheme[1].lower()
        if kind == "file":
            return await _in_thread(_read_file, _path_of(source, name), name), name
        if kind in ("http", "https"):
            return await _fetch(source, name, timeout_s), name
        raise FileReadFailedError(
            f"{name}: {kind}:// cannot be read, expected http, https, file or data"
        )
    return await _in_thread(_from_path_or_base64, source)


async def _in_thread(function: Callable[..., T], *args: str) -> T:
    # Left to itself when it is cancelled: a disk may be far away.
    return await to_thread.run_sync(function, *args, abandon_on_cancel=True)


def _from_path_or_base64(source: str) -> tuple[bytes, str]:
    if not source:
        raise FileReadFailedError("the picture's path is empty; give one")
    name = _shortened(source)
    try:
        there = os.path.lexists(source)
    except (ValueError, OSError):  # a zero byte within: no path
        there = False
    if there:
        return _read_file(source, name), name
    data = _decoded(source)
    # Words are base64 too: a picture has at least its header.
    if data is None or len(data) < 16:
        raise FileReadFailedError(f"{name}: no such file; check the path")
    return data, "the base64 text" if len(source) > _SHOWN else name


def _from_data_uri(source: str) -> bytes:
    head, comma, body = source.partition(",")
    if not comma:
        raise FileReadFailedError("the data URI has no comma, expected data:image/png;base64,...")
    if not head.lower().rstrip().endswith(";base64"):
        return unquote_to_bytes(body)
    data = _decoded(unquote(body))
    if data is None:
        raise FileReadFailedError("the data URI is not valid base64: check that it is whole")
    return data


def _decoded(text: str) -> bytes | None:
    """Decode base64 of either alphabet, with blanks, with or without its padding."""
    if len(text) > _MAX_BYTES:
        return None
    text = "".join(text.split())
    if not _BASE64.fullmatch(text):
        return None
    text = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None


def _path_of(uri: str, name: str) -> str:
    try:
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise FileReadFailedError(f"{name}: is on another computer, expected file:///path")
        return url2pathname(parts.path)
    except ValueError as exc:  # brackets without an address
        raise FileReadFailedError(f"{name}: is no valid URI, expected file:///path") from exc


def _read_file(path: str, name: str) -> bytes:
    try:
        # A pipe or a device would never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileReadFailedError(f"{name}: is no regular file; check the path")
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as exc:
        raise FileReadFailedError(f"{name}: no such file; check the path") from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise FileReadFailedError(f"{name}: cannot be read: {reason}") from exc
    _check_length(len(data), name)
    return data


async def _fetch(url: str, name: str, timeout_s: float) -> bytes:
    import aiohttp  # takes a while, and few pictures need it

    timeout = aiohttp.ClientTimeout(total=timeout_s)
    data = bytearray()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.get(url, max_redirects=_MAX_REDIRECTS) as response,
        ):
            if response.status != 200:
                raise FileReadFailedError(
                    f"{name}: the server answered {response.status} {response.reason}; "
                    "check the address"
                )
            _check_length(response.content_length or 0, name)
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                data += chunk
                _check_length(len(data), name)  # decompressed, whatever was announced
    except TimeoutError as exc:
        raise FileReadFailedError(
            f"{name}: took over {timeout_s:g} s; try again, or a longer time"
        ) from exc
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise FileReadFailedError(f"{name}: cannot be fetched: {_one_line(exc)}") from exc
    return bytes(data)


def _check_length(length: int, name: str) -> None:
    if length > _MAX_BYTES:
        raise FileReadFailedError(f"{name}: over {_MAX_BYTES} bytes, too long for a picture")


def _one_line(exc: BaseException) -> str:
    # Their texts repeat the URL that was asked for.
    text = redact(" ".join(str(exc).split()))
    return text[:200] or type(exc).__name__


def _shortened(text: str, most: int = _SHOWN) -> str:
    shown = text if len(text) <= most else f"{text[:most]}..."
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in shown)
