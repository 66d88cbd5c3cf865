"""WhipSink: publishing to a WHIP server (RFC 9725)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio

from streamseg.abc import Sink, SinkStatistics
from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.redact import redacted_url
from streamseg.webrtc.client_call import Call, Retry, call_again, calls_to
from streamseg.webrtc.client_http import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation
    from streamseg.webrtc.audio import AudioRelay
    from streamseg.webrtc.peer import Peer
    from streamseg.webrtc.peer_options import PeerOptions
    from streamseg.webrtc.statistics import PeerStatistics

__all__ = ["WhipSink"]

_log = logging.getLogger(__name__)


class WhipSink(Sink):
    """Publishes to a WHIP server.

    Args:
        url: ``https://host/whip/room``; ``whip:`` or ``whip+`` may stand before it.
        token: Bearer token.
        options: Of the connection.
        retry: What to do about a connection that breaks, for example
            ``partial(Backoff, Reconnect())``: pictures are dropped, and counted as ``reconnecting``,
            until there is another one. None makes it an error.
    """

    live_capacity = 1

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        options: PeerOptions | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.name = redacted_url(url)
        try:
            self._make = calls_to(url, "whip", token=token, options=options)
        except ValueError as exc:
            raise SinkOpenError(str(exc)) from exc
        self._call = self._make()
        self._retry = retry
        self._info: StreamInfo | None = None
        self._playing: AudioRelay | None = None
        self._again: asyncio.Task[Call | str] | None = None  # ended by aclose
        self._before = SinkStatistics()  # of the connections before, and between them
        self._closed = False

    @property
    def _peer(self) -> Peer:
        return self._call.peer

    async def open(self, info: StreamInfo) -> None:
        """Offer the stream and wait until it can be sent.

        Raises:
            SinkOpenError: If the server refuses, or no connection comes about.
        """
        self._info = info
        try:
            await self._stand(self._call)
        except RefusedError as exc:
            await self.aclose()
            raise SinkOpenError(f"cannot publish to {self.name}: {exc}") from exc
        except BaseException:
            await self.aclose()
            raise

    async def _stand(self, call: Call) -> None:
        assert self._info is not None
        await call.connect(sends=True)
        try:
            await call.peer.sink.open(self._info)
        except anyio.ClosedResourceError as exc:
            raise RefusedError(call.broke or "it was closed") from exc
        call.peer.sink.play(self._playing)

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Take a picture; the newest one goes out.

        Raises:
            anyio.ClosedResourceError: If it is closed or was never opened.
            SinkWriteError: If the connection ended and is not made again, or could not be.
        """
        if self._closed:  # it must not begin to connect again
            raise anyio.ClosedResourceError
        if self._again is not None and self._again.done():
            self._take(self._again.result())
        if reason := self._call.broke:
            if self._retry is None:
                raise SinkWriteError(f"publishing to {self.name} ended: {reason}")
            if self._again is None:
                _log.warning("%s broke off: %s", self.name, reason)
                self._again = asyncio.create_task(self._connect_again(self._retry, reason))
            self._count(SinkStatistics(accepted=1, dropped={"reconnecting": 1}))
            await asyncio.sleep(0)
            return
        await self._peer.sink.send(frame, segmentation)

    async def _connect_again(self, retry: Retry, reason: str) -> Call | str:
        await self._call.aclose()
        return await call_again(self._make, self._stand, retry(time.monotonic()), reason)

    def _take(self, again: Call | str) -> None:
        if isinstance(again, str):
            raise SinkWriteError(f"publishing to {self.name} failed: {again}")
        self._again = None
        self._count(self._peer.sink.statistics())
        self._count(SinkStatistics(reconnects=1))
        self._call = again
        again.peer.sink.play(self._playing)
        _log.warning("%s is connected again", self.name)

    def _count(self, more: SinkStatistics) -> None:
        self._before = _sum(self._before, more)

    async def send_packets(self, packets: Sequence[Any]) -> None:
        """Send sound that is Opus; the rest of the side streams is left out."""
        await self._peer.sink.send_packets(packets)

    def play(self, audio: AudioRelay | None) -> None:
        """Send the sound of a connection as it is; None for silence."""
        self._playing = audio
        self._peer.sink.play(audio)

    async def finish(self) -> None:
        """Nothing is left to write: what was not sent by now would come too late."""
        if self._again is None:
            await self._peer.sink.finish()

    async def commit(self) -> None:
        """Do nothing: what was sent was seen."""

    async def aclose(self) -> None:
        """End the connection and tell the server."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self._peer.sink.aclose()
            again, self._again = self._again, None
            if again is not None:
                again.cancel()
                (made,) = await asyncio.gather(again, return_exceptions=True)
                if isinstance(made, Call):
                    await made.aclose()
            await self._call.aclose()

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know, a line each."""
        return self._peer.sink.notices

    def statistics(self) -> SinkStatistics:
        """Return the counters of this moment."""
        return _sum(self._before, self._peer.sink.statistics())

    def connection(self) -> PeerStatistics:
        """Return what the connection is doing."""
        return self._peer.statistics()

    def __repr__(self) -> str:
        return f"<WhipSink {self.name}>"


def _sum(one: SinkStatistics, other: SinkStatistics) -> SinkStatistics:
    return SinkStatistics(
        one.accepted + other.accepted,
        one.written + other.written,
        dict(Counter(one.dropped) + Counter(other.dropped)),
        one.reconnects + other.reconnects,
    )
