"""WhepSource and WhipSink: playback from, and publishing to, servers of the WebRTC standards.

WHIP is RFC 9725, WHEP its draft mirror image: an offer is posted, the answer comes back with the
place of the session, which is deleted in the end.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import anyio

from streamseg.abc import Sink, SinkStatistics, Source, SourceStatistics
from streamseg.errors import SinkOpenError, SinkWriteError, SourceOpenError
from streamseg.redact import redacted_url
from streamseg.webrtc.errors import SignalError
from streamseg.webrtc.peer import Peer, PeerOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation
    from streamseg.webrtc.audio import AudioRelay
    from streamseg.webrtc.statistics import PeerStatistics

__all__ = ["WhepSource", "WhipSink"]

_logger = logging.getLogger(__name__)

_SDP = "application/sdp"
_MAX_ANSWER = 65_536
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


class _RefusedError(Exception):
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


class _Session:
    """One session at a server: made by posting, ended by deleting."""

    def __init__(self, url: str, token: str | None, timeout_s: float) -> None:
        self._url = url
        self._name = redacted_url(url)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout_s = timeout_s
        self._location: str | None = None
        self._http: aiohttp.ClientSession | None = None

    async def begin(self, offer: str) -> str:
        """Post an offer; return the answer.

        Raises:
            _RefusedError: If it is not answered.
        """
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        self._http = aiohttp.ClientSession(timeout=timeout)
        try:
            async with self._http.post(
                self._url,
                data=offer.encode(),
                headers={**self._headers, "Content-Type": _SDP, "Accept": _SDP},
            ) as response:
                if response.status != 201:
                    words = _WORDS.get(response.status, "is it a WHIP or WHEP server?")
                    raise _RefusedError(f"the server answered {response.status}: {words}")
                location = response.headers.get("Location")
                if location:
                    # Relative to where a redirection led.
                    self._location = urljoin(str(response.url), location)
                if response.content_type != _SDP:
                    raise _RefusedError("the server's answer is no SDP")
                answer = await response.content.read(_MAX_ANSWER + 1)
                while len(answer) <= _MAX_ANSWER and not response.content.at_eof():
                    answer += await response.content.read(_MAX_ANSWER + 1)
                if len(answer) > _MAX_ANSWER:
                    raise _RefusedError(f"the server's answer is over {_MAX_ANSWER} bytes")
                return answer.decode("utf-8", "replace")
        except TimeoutError as exc:
            raise _RefusedError(f"the server did not answer within {self._timeout_s:g} s") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            kind = getattr(exc, "os_error", exc)
            words = getattr(kind, "strerror", None) or type(exc).__name__
            raise _RefusedError(f"cannot reach the server: {words}") from exc

    async def end(self) -> None:
        """Delete the session; a server that does not answer notices by itself."""
        http, self._http = self._http, None
        location, self._location = self._location, None
        if http is None:
            return
        try:
            if location is not None and urlsplit(location).scheme in ("http", "https"):
                # The token is for the server that it was given for.
                same = urlsplit(location)[:2] == urlsplit(self._url)[:2]
                async with asyncio.timeout(_DELETE_S):
                    async with http.delete(location, headers=self._headers if same else {}):
                        pass
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            _logger.debug("the session could not be deleted: %s", type(exc).__name__)
        finally:
            await http.close()


async def _connect(peer: Peer, session: _Session, *, sends: bool) -> None:
    """Make the connection; wait until it stands.

    Raises:
        _RefusedError: If it does not come about.
    """
    offer = await peer.offer(sends=sends, receives=not sends)
    answer = await session.begin(offer)
    try:
        await peer.take_answer(answer)
    except SignalError as exc:
        raise _RefusedError(str(exc)) from exc
    except anyio.ClosedResourceError as exc:
        raise _RefusedError(peer.reason) from exc
    done, waiting = await asyncio.wait(
        [asyncio.ensure_future(event.wait()) for event in (peer.connected, peer.closed)],
        return_when=asyncio.FIRST_COMPLETED,
    )
    for task in waiting:
        task.cancel()
    await asyncio.wait(done | waiting)
    if not peer.connected.is_set():
        raise _RefusedError(peer.reason)


class WhepSource(Source):
    """What a WHEP server plays: the newest picture, live.

    Args:
        url: ``https://host/whep/room``; ``whep:`` or ``whep+`` may stand before it.
        token: Bearer token.
        options: Of the connection.
    """

    def __init__(
        self, url: str, *, token: str | None = None, options: PeerOptions | None = None
    ) -> None:
        self._options = options or PeerOptions()
        self._name = redacted_url(url)
        self._peer = Peer(self._options, name=self._name)
        try:
            self._url = http_url(url, "whep")
        except ValueError as exc:
            raise SourceOpenError(str(exc)) from exc
        self._session = _Session(self._url, token, self._options.handshake_timeout_s)

    @property
    def audio(self) -> AudioRelay | None:
        """The sound that is played, to be sent on by a sink's ``play``; None without."""
        return self._peer.audio

    async def open(self) -> StreamInfo:
        """Ask for the stream and wait for its first picture.

        Raises:
            SourceOpenError: If the server refuses, or nothing comes.
        """
        try:
            await _connect(self._peer, self._session, sends=False)
            return await self._peer.source.open()
        except _RefusedError as exc:
            await self.aclose()
            raise SourceOpenError(f"cannot play {self._name}: {exc}") from exc
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise

    async def receive(self) -> Frame:
        """Return the newest picture, waiting for one.

        Raises:
            anyio.EndOfStream: When the connection has ended, every time.
            anyio.ClosedResourceError: If it is closed or was never opened.
        """
        return await self._peer.source.receive()

    async def aclose(self) -> None:
        """End the connection and tell the server."""
        await self._peer.source.aclose()
        await _end(self._peer, self._session)

    @property
    def notices(self) -> Sequence[str]:
        """Why the stream ended, if the connection did."""
        reason = self._peer.reason
        return (f"{self._name}: {reason}",) if reason and reason != "closed" else ()

    def statistics(self) -> SourceStatistics:
        """Return the counters of this moment."""
        return self._peer.source.statistics()

    def connection(self) -> PeerStatistics:
        """Return what the connection is doing."""
        return self._peer.statistics()

    def __repr__(self) -> str:
        return f"<WhepSource {self._name}>"


class WhipSink(Sink):
    """Publishes to a WHIP server.

    Args:
        url: ``https://host/whip/room``; ``whip:`` or ``whip+`` may stand before it.
        token: Bearer token.
        options: Of the connection.
    """

    live_capacity = 1

    def __init__(
        self, url: str, *, token: str | None = None, options: PeerOptions | None = None
    ) -> None:
        self._options = options or PeerOptions()
        self.name = redacted_url(url)
        self._peer = Peer(self._options, name=self.name)
        try:
            self._url = http_url(url, "whip")
        except ValueError as exc:
            raise SinkOpenError(str(exc)) from exc
        self._session = _Session(self._url, token, self._options.handshake_timeout_s)

    async def open(self, info: StreamInfo) -> None:
        """Offer the stream and wait until it can be sent.

        Raises:
            SinkOpenError: If the server refuses, or no connection comes about.
        """
        try:
            await _connect(self._peer, self._session, sends=True)
            await self._peer.sink.open(info)
        except _RefusedError as exc:
            await self.aclose()
            raise SinkOpenError(f"cannot publish to {self.name}: {exc}") from exc
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Take a picture; the newest one goes out.

        Raises:
            anyio.ClosedResourceError: If it is closed or was never opened.
            SinkWriteError: If the connection ended.
        """
        reason = self._peer.reason
        if reason and reason != "closed":
            raise SinkWriteError(f"publishing to {self.name} ended: {reason}")
        await self._peer.sink.send(frame, segmentation)

    async def send_packets(self, packets: Sequence[Any]) -> None:
        """Send sound that is Opus; the rest of the side streams is left out."""
        await self._peer.sink.send_packets(packets)

    def play(self, audio: AudioRelay | None) -> None:
        """Send the sound of a connection as it is; None for silence."""
        self._peer.sink.play(audio)

    async def finish(self) -> None:
        """Nothing is left to write: what was not sent by now would come too late."""
        await self._peer.sink.finish()

    async def commit(self) -> None:
        """Do nothing: what was sent was seen."""

    async def aclose(self) -> None:
        """End the connection and tell the server."""
        await self._peer.sink.aclose()
        await _end(self._peer, self._session)

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know, a line each."""
        return self._peer.sink.notices

    def statistics(self) -> SinkStatistics:
        """Return the counters of this moment."""
        return self._peer.sink.statistics()

    def connection(self) -> PeerStatistics:
        """Return what the connection is doing."""
        return self._peer.statistics()

    def __repr__(self) -> str:
        return f"<WhipSink {self.name}>"


async def _end(peer: Peer, session: _Session) -> None:
    """End both, at the same time: each takes up to a second or two."""
    with anyio.CancelScope(shield=True):
        await asyncio.gather(peer.aclose(), session.end())
