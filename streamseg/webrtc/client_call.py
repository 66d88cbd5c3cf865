"""Call: a connection to a WHIP or WHEP server with its session there, and how to have it again."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import anyio

from streamseg.redact import redacted_url
from streamseg.webrtc.client_http import HttpSession, RefusedError, http_url
from streamseg.webrtc.errors import SignalError
from streamseg.webrtc.peer import Peer
from streamseg.webrtc.peer_options import PeerOptions
from streamseg.webrtc.tuning_gathering import address_towards

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Call", "Retry", "Waits", "call_again", "calls_to"]


class Waits(Protocol):
    """The waits of one failure; ``streamseg.sources.reconnect.Backoff`` is one."""

    def next_delay_s(self, now_s: float) -> float | None:
        """Return how long to wait before the next attempt, in seconds; None to give up."""


class Retry(Protocol):
    """Makes the waits of a failure that began at this time, in seconds of ``time.monotonic``."""

    def __call__(self, began_s: float, /) -> Waits:
        """Return them."""


class Call:
    """One connection and its session at the server; it is made once.

    Args:
        url: Where to post to.
        name: For messages, without credentials.
        token: Bearer token.
        options: Of the connection.
    """

    def __init__(self, url: str, name: str, token: str | None, options: PeerOptions) -> None:
        self.peer = Peer(options, name=name)
        # A server on this machine may be reached by the loopback address alone.
        self.peer.near = address_towards(urlsplit(url).hostname or "")
        self._session = HttpSession(url, token, options.handshake_timeout_s)

    @property
    def broke(self) -> str:
        """Why it ended, if that was not asked for; else empty."""
        reason = self.peer.reason
        return "" if reason == "closed" else reason

    async def connect(self, *, sends: bool) -> None:
        """Make the connection; wait until it stands.

        Raises:
            RefusedError: If it does not come about.
        """
        peer = self.peer
        try:
            offer = await peer.offer(sends=sends, receives=not sends)
        except OSError as exc:  # no descriptor or no port is left
            words = exc.strerror or type(exc).__name__
            raise RefusedError(f"a connection cannot be made: {words.lower()}") from exc
        answer = await self._session.begin(offer)
        try:
            await peer.take_answer(answer)
        except SignalError as exc:
            raise RefusedError(str(exc)) from exc
        except anyio.ClosedResourceError as exc:
            raise RefusedError(peer.reason) from exc
        waiting = [asyncio.ensure_future(event.wait()) for event in (peer.connected, peer.closed)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
        if not peer.connected.is_set():
            raise RefusedError(peer.reason)

    async def aclose(self) -> None:
        """End both, at the same time: each takes up to a second or two."""
        with anyio.CancelScope(shield=True):
            await asyncio.gather(self.peer.aclose(), self._session.end())


def calls_to(
    url: str, kind: str, *, token: str | None, options: PeerOptions | None
) -> Callable[[], Call]:
    """Return what makes a call, as often as one is needed.

    Args:
        url: Of the server, as a user gives it.
        kind: ``whip`` or ``whep``.
        token: Bearer token.
        options: Of the connections; the usual ones if left out.

    Raises:
        ValueError: If the URL is none.
    """
    address = http_url(url, kind)
    return partial(Call, address, redacted_url(url), token, options or PeerOptions())


async def call_again(
    make: Callable[[], Call], stand: Callable[[Call], Awaitable[None]], waits: Waits, reason: str
) -> Call | str:
    """Try until there is a connection again.

    Args:
        make: Makes a call.
        stand: Connects it and does what it is for; raises ``RefusedError`` if that fails.
        waits: How long to wait before each attempt.
        reason: Why the last one ended.

    Returns:
        The call, or why the last attempt failed.
    """
    while (delay_s := waits.next_delay_s(time.monotonic())) is not None:
        await asyncio.sleep(delay_s)
        call = make()
        try:
            await stand(call)
        except RefusedError as exc:
            reason = str(exc)
            await call.aclose()
        except BaseException:
            await call.aclose()
            raise
        else:
            return call
    return reason
