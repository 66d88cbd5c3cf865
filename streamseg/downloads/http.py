"""One file of a web server, into a partial file, through every cut.

A partial file is gone on with only if the server still has the same: ``If-Range`` carries the
``ETag``, or the ``Last-Modified``, that it had (RFC 9110, sections 13.1.5 and 14). A server that
ignores ``Range`` answers 200, and everything starts again from zero.
"""

from __future__ import annotations

import logging
import random
import re
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp
import anyio
import anyio.to_thread
from yarl import URL

from streamseg.downloads.part import PartState, PartWriter
from streamseg.errors import DownloadError, DownloadInterruptedError
from streamseg.redact import redacted_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from streamseg.downloads.cache import Place
    from streamseg.downloads.control import DownloadControl
    from streamseg.downloads.limits import DownloadLimits
    from streamseg.downloads.locations import WebFile

__all__ = ["download_over_http"]

_LOGGER = logging.getLogger(__name__)
# More digits than any file's size has are refused before they become a number.
_NUMBER = r"[0-9]{1,18}"
_CONTENT_RANGE = re.compile(rf"bytes (?:({_NUMBER})-{_NUMBER}|\*)/({_NUMBER}|\*)")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_ENOUGH = 1 << 20
# Small: what is in it is lost when the connection is cut.
_BUFFER = 1 << 16


class _TryAgainError(Exception):
    """This attempt failed; another one may not."""

    def __init__(self, what: str, *, wait_s: float | None = None, counts: int = 1) -> None:
        super().__init__(what)
        self.wait_s = wait_s
        self.counts = counts


class _ChangedFileError(Exception):
    """The server has another version than before; what is here must not be gone on with."""


class _OtherFileError(Exception):
    """The server has another file than expected; what is here of it is of no use."""


async def download_over_http(
    file: WebFile,
    place: Place,
    *,
    size_bytes: int | None,
    control: DownloadControl,
    limits: DownloadLimits,
) -> None:
    """Fetch a file into ``place.part``; cancelled or cut, it leaves there what it got.

    Args:
        file: What to fetch.
        place: Where to put it.
        size_bytes: Its size, None if it is not known.
        control: Is told of the progress, and can pause it.
        limits: What it may take.

    Raises:
        DownloadError: If the server refuses, or has another file than expected.
        DownloadInterruptedError: If the connection failed too often.
        OSError: If the file cannot be written.
    """
    job = _Job(file, place, size_bytes, control, limits)
    failures, mark = 0, 0
    timeout = aiohttp.ClientTimeout(
        total=None, connect=limits.connect_timeout_s, sock_read=limits.read_timeout_s
    )
    async with aiohttp.ClientSession(
        timeout=timeout,
        trust_env=True,  # proxies
        auto_decompress=False,
        read_bufsize=_BUFFER,
        headers={"Accept-Encoding": "identity", "User-Agent": "streamseg"},
    ) as session:
        while True:
            try:
                await job.attempt(session)
                return
            except _TryAgainError as exc:
                if control.received_bytes - mark >= _ENOUGH:
                    failures, mark = 0, control.received_bytes
                failures += exc.counts
                if failures >= limits.attempts:
                    advice = "fetch it again to go on where it stopped"
                    raise DownloadInterruptedError(
                        f"{file}: {exc}; tried {failures // exc.counts} times; "
                        f"{advice if control.received_bytes else 'try again later'}"
                    ) from exc
                wait_s = exc.wait_s
                if wait_s is None:
                    wait_s = min(limits.backoff_s * 2 ** (failures - 1), limits.max_backoff_s)
                    wait_s *= random.uniform(0.5, 1.0)
                _LOGGER.info("%s: %s; trying again in %.1f s", file, exc, wait_s)
            await anyio.sleep(wait_s)


@dataclass(frozen=True, slots=True)
class _Job:
    file: WebFile
    place: Place
    size_bytes: int | None
    control: DownloadControl
    limits: DownloadLimits

    async def attempt(self, session: aiohttp.ClientSession) -> None:
        """Go on from what is here, to the end."""
        await self.control.wait_resumed()
        state = await PartState.read(self.place, size_bytes=self.size_bytes)
        headers = {}
        if state.received:
            headers = {"Range": f"bytes={state.received}-", "If-Range": state.validator}
        try:
            async with self._open(session, headers) as response:
                await self._take(response, state)
        except _ChangedFileError as exc:
            await anyio.to_thread.run_sync(self.place.discard_part)
            raise _TryAgainError("the file changed on the server", wait_s=0.0) from exc
        except _OtherFileError as exc:
            await anyio.to_thread.run_sync(self.place.discard_part)
            raise DownloadError(f"{self.file}: {exc}") from exc
        except (aiohttp.InvalidURL, UnicodeError) as exc:  # of the host's name
            raise DownloadError(f"{self.file}: not a valid address; check it") from exc
        except aiohttp.ClientConnectorCertificateError as exc:
            raise DownloadError(
                f"{self.file}: the server's certificate is not trusted; check the address and "
                "the machine's clock"
            ) from exc
        except aiohttp.ClientProxyConnectionError as exc:
            raise _TryAgainError(
                f"the proxy cannot be reached: {_reason(exc)}; check HTTP_PROXY, HTTPS_PROXY, "
                "NO_PROXY",
                counts=2,
            ) from exc
        except aiohttp.ClientHttpProxyError as exc:
            raise DownloadError(
                f"{self.file}: the proxy refuses it ({exc.status}); check HTTPS_PROXY"
            ) from exc
        except aiohttp.ClientConnectorError as exc:
            # A wrong name and a closed port do not get better by waiting long.
            raise _TryAgainError(
                f"cannot connect: {_reason(exc)}; check the address", counts=2
            ) from exc
        except aiohttp.ConnectionTimeoutError as exc:
            raise _TryAgainError(
                f"no connection within {self.limits.connect_timeout_s:g} s", counts=2
            ) from exc
        except TimeoutError as exc:
            raise _TryAgainError(
                f"the server sent nothing for {self.limits.read_timeout_s:g} s"
            ) from exc
        except aiohttp.ClientError as exc:
            raise _TryAgainError(f"the connection was cut ({type(exc).__name__})") from exc

    @asynccontextmanager
    async def _open(
        self, session: aiohttp.ClientSession, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask, and follow redirects: a few, never from https to http, never in a circle."""
        seen = set[URL]()
        try:
            url = URL(self.file.url)
        except ValueError as exc:
            raise DownloadError(f"{self.file}: not a valid address; check it") from exc
        while True:
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    yield response
                    return
                seen.add(url)
                target = response.headers.get("Location", "")
            try:
                url = url.join(URL(target))
            except ValueError:
                url = URL()
            shown = redacted_url(str(url))
            if url.scheme not in ("http", "https") or not url.host:
                raise DownloadError(f"{self.file}: redirects to {shown!r}, which is no web address")
            if url.scheme == "http" and any(before.scheme == "https" for before in seen):
                raise DownloadError(f"{self.file}: redirects from https to {shown}: not followed")
            if url in seen:
                raise DownloadError(f"{self.file}: redirects in a circle; check the address")
            if len(seen) > self.limits.max_redirects:
                raise DownloadError(
                    f"{self.file}: redirects more than {self.limits.max_redirects} times; "
                    "check the address"
                )

    async def _take(self, response: aiohttp.ClientResponse, state: PartState) -> None:
        """Look at an answer, and write its bytes down."""
        begin, total = self._offer(response, state)
        if begin < 0:  # everything was here already
            self.control.report(state.received, state.received)
            return
        self._check_size(total)
        writer = PartWriter(
            self.place,
            begin=begin,
            total=total,
            validator=_validator(response),
            source=str(self.file),
        )
        ended = False
        try:
            self.control.report(begin, total)
            async for chunk in response.content.iter_any():
                await writer.write(chunk)
                self._check_size(writer.received, so_far=True)
                self.control.report(writer.received, total)
                await self.control.wait_resumed()
            await writer.flush()
            ended = True
        finally:
            with anyio.CancelScope(shield=True):
                await writer.aclose(durable=ended)
        if total is not None and writer.received != total:
            raise _TryAgainError(f"it ended after {writer.received} of {total} bytes")

    def _offer(self, response: aiohttp.ClientResponse, state: PartState) -> tuple[int, int | None]:
        """Return from which byte on the answer has the file, and the file's size.

        The first is -1 if there is nothing to come.
        """
        status = response.status
        if status == 200:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise DownloadError(f"{self.file}: the server sends it compressed, unasked")
            if response.content_type == "text/html" and not self.file.name.endswith("html"):
                raise DownloadError(
                    f"{self.file}: the server sends a web page instead of the file; check the "
                    "address, or log in there"
                )
            return 0, _content_length(response)
        if status not in (206, 416):
            raise self._refusal(response)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        total = int(match[2]) if match and match[2] != "*" else None
        if status == 416 and total == state.received > 0:
            return -1, total
        begins_right = match is not None and match[1] == str(state.received)
        if status == 206 and begins_right and (state.total is None or total == state.total):
            return state.received, total
        # It answers another range than was asked for, or has another file by now.
        if not state.received:
            raise DownloadError(f"{self.file}: the server answers with a part of the file, unasked")
        raise _ChangedFileError

    def _check_size(self, size: int | None, *, so_far: bool = False) -> None:
        if size is None:
            return
        if size > self.limits.max_bytes:
            raise _OtherFileError(
                f"is larger than {self.limits.max_bytes} bytes, which is the most that is fetched"
            )
        expected = self.size_bytes
        if expected is not None and (size > expected if so_far else size != expected):
            raise _OtherFileError(
                f"has {'more than ' if so_far else ''}{size} bytes on the server, expected "
                f"{expected}: it is another file; check the address"
            )

    def _refusal(self, response: aiohttp.ClientResponse) -> Exception:
        """Return what to raise for a status that is no file."""
        status = response.status
        if status in _PASSING:
            wait_s = _retry_after(response.headers.get("Retry-After", ""))
            what = "asked too often" if status == 429 else "the server is not available"
            if wait_s is not None and wait_s > self.limits.max_retry_after_s:
                return DownloadError(
                    f"{self.file}: {what} ({status}); it asks to come back in {wait_s:.0f} s"
                )
            return _TryAgainError(f"{what} ({status})", wait_s=wait_s)
        if status in (401, 403, 407):
            advice = "not allowed; it may need a login or a token"
        elif status in (404, 410):
            advice = "no such file on the server; check the address"
        else:
            advice = "the server refuses it; check the address"
        return DownloadError(f"{self.file}: {advice} ({status})")


def _content_length(response: aiohttp.ClientResponse) -> int | None:
    """Return the size that an answer tells; of a number that no file has, enough to refuse it."""
    text = response.headers.get("Content-Length", "")
    return int(text[:19]) if text.isascii() and text.isdigit() else None


def _validator(response: aiohttp.ClientResponse) -> str:
    """Return what tells this version of the file from others; empty if nothing does for sure."""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return "" if etag else response.headers.get("Last-Modified", "")


def _retry_after(text: str) -> float | None:
    """Return the seconds of a Retry-After, which is a number or a date."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):  # no date, or one that no calendar has
        return None


def _reason(exc: aiohttp.ClientConnectorError) -> str:
    cause = exc.os_error
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {cause.reason}"
    return cause.strerror or type(cause).__name__
