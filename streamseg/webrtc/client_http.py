"""HttpSession: one session at a WHIP or WHEP server, made by posting, ended by deleting."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urljoin, urlsplit

import aiohttp

from streamseg.redact import redacted_url

__all__ = ["HttpSession", "RefusedError", "http_url"]

_logger = logging.getLogger(__name__)

_SDP = "application/sdp"
_MAX_ANSWER = 65_536
_CONNECT_S = 3.0  # with one repetition; a network that comes back is not waited for any longer
_DELETE_S = 1.0
_WORDS = {
    400: "it takes the offer for malformed",
    401: "it wants a token, or another one",
    403: "it does not allow this",
    404: "there is no such room",
    405: "this is no address to post offers to",
    406: "it has no codec in common with us (H264, VP8, Opus)",
    409: "nobody publishes there, or somebody does already",
    415: "it takes no SDP there",
    503: "it is full: try again later",
}


class RefusedError(Exception):
    """The server or the way to it; the text is one line without credentials."""


def http_url(url: str, kind: str) -> str:
    """Return the address to post to.

    Args:
        url: ``https://...``, or the same behind ``whip:`` or ``whip+``.
        kind: ``whip`` or ``whep``.

    Raises:
        ValueError: If it is none.
    """
    address = url
    for prefix in (f"{kind}:", f"{kind}+"):
        address = address.removeprefix(prefix)
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{redacted_url(url)} is no address: expected {kind}:https://host/path")
    return address


class HttpSession:
    """One session at a server.

    Args:
        url: Where to post to.
        token: Bearer token.
        timeout_s: How long the answer may take, in seconds.
    """

    def __init__(self, url: str, token: str | None, timeout_s: float) -> None:
        self._url = url
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout_s = timeout_s
        self._location: str | None = None
        self._answered_by: str | None = None  # the host, after all redirections
        self._http: aiohttp.ClientSession | None = None

    async def begin(self, offer: str) -> str:
        """Post an offer; return the answer.

        Raises:
            RefusedError: If it is not answered.
        """
        timeout = aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S)
        self._http = aiohttp.ClientSession(timeout=timeout)
        try:
            async with self._http.post(
                self._url,
                data=offer.encode(),
                headers={**self._headers, "Content-Type": _SDP, "Accept": _SDP},
            ) as response:
                if response.status != 201:
                    words = _WORDS.get(response.status, "is it a WHIP or WHEP server?")
                    raise RefusedError(f"the server answered {response.status}: {words}")
                location = response.headers.get("Location")
                if location:
                    # Relative to where a redirection led.
                    self._location = urljoin(str(response.url), location)
                    self._answered_by = urlsplit(str(response.url)).hostname
                if response.content_type != _SDP:
                    raise RefusedError("the server's answer is no SDP")
                answer = await response.content.read(_MAX_ANSWER + 1)
                while len(answer) <= _MAX_ANSWER and not response.content.at_eof():
                    answer += await response.content.read(_MAX_ANSWER + 1)
                if len(answer) > _MAX_ANSWER:
                    raise RefusedError(f"the server's answer is over {_MAX_ANSWER} bytes")
                return answer.decode("utf-8", "replace")
        except TimeoutError as exc:
            raise RefusedError(f"the server did not answer within {self._timeout_s:g} s") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            kind = getattr(exc, "os_error", exc)
            words = getattr(kind, "strerror", None) or type(exc).__name__
            raise RefusedError(f"cannot reach the server: {words}") from exc

    async def end(self) -> None:
        """Delete the session; a server that does not answer notices by itself."""
        http, self._http = self._http, None
        location, self._location = self._location, None
        if http is None:
            return
        try:
            if location is not None and self._is_ours(location):
                # The token is for the server that it was given for.
                same = urlsplit(location)[:2] == urlsplit(self._url)[:2]
                async with asyncio.timeout(_DELETE_S):
                    async with http.delete(
                        location, headers=self._headers if same else {}, allow_redirects=False
                    ):
                        pass
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            _logger.debug("the session could not be deleted: %s", type(exc).__name__)
        finally:
            await http.close()

    def _is_ours(self, location: str) -> bool:
        # Or a server could have us delete at addresses that only this machine reaches. One that
        # keeps its sessions elsewhere sees by the connection's end that this one is over. The host
        # that a redirection led to has had the offer already (RFC 9725 shares load like this).
        parts = urlsplit(location)
        ours = (urlsplit(self._url).hostname, self._answered_by)
        return parts.scheme in ("http", "https") and parts.hostname in ours
