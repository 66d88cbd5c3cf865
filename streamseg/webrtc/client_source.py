"""WhepSource: playback from a WHEP server (draft-ietf-wish-whep)."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from streamseg.abc import Source, SourceStatistics
from streamseg.errors import SourceOpenError, SourceReadError
from streamseg.redact import redacted_url
from streamseg.webrtc.client_call import Call, Retry, Waits, call_again, calls_to
from streamseg.webrtc.client_http import RefusedError
from streamseg.webrtc.peer_sound import PeerSound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.frames import Frame, StreamInfo
    from streamseg.webrtc.peer import Peer
    from streamseg.webrtc.peer_options import PeerOptions
    from streamseg.webrtc.statistics import PeerStatistics

__all__ = ["WhepSource"]

_log = logging.getLogger(__name__)

_CLOCK = 90_000  # pts of a connection's pictures are in units of 1/90000 s


class WhepSource(Source):
    """What a WHEP server plays: the newest picture, live.

    Time stamps go on over reconnects, with a gap that is as long as the gap was. Sound is a side
    stream of Opus, whose packets are those that came.

    Args:
        url: ``https://host/whep/room``; ``whep:`` or ``whep+`` may stand before it.
        token: Bearer token.
        options: Of the connection.
        retry: What to do about a connection that breaks, for example
            ``partial(Backoff, Reconnect())``; None ends the stream.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        options: PeerOptions | None = None,
        retry: Retry | None = None,
    ) -> None:
        self._name = redacted_url(url)
        try:
            self._make = calls_to(url, "whep", token=token, options=options)
        except ValueError as exc:
            raise SourceOpenError(str(exc)) from exc
        self._call = self._make()
        self._info: StreamInfo | None = None
        self._retry = retry
        self._waits: Waits | None = None  # of the failure that goes on
        self._error = ""
        self._closed = anyio.Event()
        self._last: Frame | None = None
        # What pts and index of this connection are moved by; None until its first picture.
        self._moved: tuple[int, int] | None = None
        self._delivered = 0
        self._dropped: Counter[str] = Counter()  # of the connections before
        self._reconnects = 0
        self._sound: PeerSound | None = None

    @property
    def _peer(self) -> Peer:
        return self._call.peer

    async def open(self) -> StreamInfo:
        """Ask for the stream and wait for its first picture; opened again, return the same.

        Raises:
            SourceOpenError: If the server refuses, or nothing comes.
        """
        if self._info is not None:
            return self._info
        try:
            await self._call.connect(sends=False)
            info = await self._peer.source.open()
            if self._peer.audio is not None:
                self._sound = await anyio.to_thread.run_sync(PeerSound)
                info = replace(info, side_streams=(self._sound.stream,))
                self._peer.audio.listen(self._hear)
            self._info = info
            return info
        except RefusedError as exc:
            await self.aclose()
            raise SourceOpenError(f"cannot play {self._name}: {exc}") from exc
        except BaseException:
            await self.aclose()
            raise

    async def receive(self) -> Frame:
        """Return the newest picture, waiting for one, and for a connection if need be.

        Raises:
            anyio.EndOfStream: When the connection has ended and is not made again, every time.
            anyio.ClosedResourceError: If it is closed or was never opened.
            SourceReadError: If the connection could not be had again, every time.
        """
        while True:
            try:
                frame = await self._peer.source.receive()
            except anyio.EndOfStream:
                if self._retry is None:
                    raise
            else:
                break
            if not self._error:
                await self._connect_again(self._retry)
            if self._closed.is_set():
                raise anyio.ClosedResourceError
            if self._error:
                raise SourceReadError(f"cannot play {self._name} any more: {self._error}")
        self._delivered += 1
        self._last = self._placed(frame)
        return self._last

    async def _connect_again(self, retry: Retry) -> None:
        """Have a new connection, or an error, or be closed; may be cancelled and called again."""
        reason = self._call.broke or "the connection ended"
        if self._waits is None:
            _log.warning("%s broke off: %s", self._name, reason)
            self._waits = retry(time.monotonic())
        await self._call.aclose()
        waits = self._waits
        async with anyio.create_task_group() as group:

            async def stop_with_this() -> None:
                await self._closed.wait()
                group.cancel_scope.cancel()

            group.start_soon(stop_with_this)
            again = await call_again(self._make, self._stand, waits, reason)
            if isinstance(again, str):
                self._error = again
            else:
                await self._take(again)
            group.cancel_scope.cancel()

    @staticmethod
    async def _stand(call: Call) -> None:
        await call.connect(sends=False)
        try:
            await call.peer.source.open()
        except SourceOpenError as exc:
            raise RefusedError(call.broke or "no picture came") from exc

    async def _take(self, call: Call) -> None:
        if self._closed.is_set():
            await call.aclose()
            return
        self._dropped += Counter(self._peer.source.statistics().dropped)
        self._call, self._waits = call, None
        self._reconnects += 1
        self._moved = None
        if call.peer.audio is not None and self._sound is not None:
            call.peer.audio.listen(self._hear)
        _log.warning("%s is connected again", self._name)

    def _hear(self, data: bytes, pts: int) -> None:
        if self._sound is not None:
            self._sound.hear(data, pts, time.monotonic())

    def take_packets(self) -> list[Any]:
        """Return the packets of sound that came since, in their order."""
        return [] if self._sound is None else self._sound.take()

    def _placed(self, frame: Frame) -> Frame:
        """Return a picture with its place on the line of all connections."""
        own, last = frame.pts, self._last
        assert own is not None
        if last is None:
            self._moved = (0, 0)
        else:
            assert last.pts is not None
            index = last.index + 1 - frame.index if self._moved is None else self._moved[1]
            # Also where a sender's time went back, as when another one takes its place.
            if self._moved is None or own + self._moved[0] <= last.pts:
                gap = max(1, round((frame.captured_s - last.captured_s) * _CLOCK))
                self._moved = (last.pts + gap - own, index)
        assert self._moved is not None
        pts, index = self._moved
        frame.video.pts = own + pts  # nobody else has the picture yet
        if self._sound is not None:
            self._sound.picture(frame.captured_s, (own + pts) / _CLOCK)
        return replace(frame, index=frame.index + index)

    async def aclose(self) -> None:
        """End the connection and tell the server."""
        self._closed.set()
        await self._peer.source.aclose()
        await self._call.aclose()
        sound, self._sound = self._sound, None
        if sound is not None:
            sound.close()

    @property
    def notices(self) -> Sequence[str]:
        """Why the stream ended, if the connection did, and how often that was mended."""
        notices = []
        if self._reconnects:
            times = "once" if self._reconnects == 1 else f"{self._reconnects} times"
            notices.append(f"{self._name}: the connection broke off {times} and was made again")
        if self._call.broke:
            notices.append(f"{self._name}: {self._call.broke}")
        return notices

    def statistics(self) -> SourceStatistics:
        """Return the counters of this moment."""
        dropped = self._dropped + Counter(self._peer.source.statistics().dropped)
        return SourceStatistics(self._delivered, dict(dropped), self._reconnects)

    def connection(self) -> PeerStatistics:
        """Return what the connection is doing."""
        return self._peer.statistics()

    def __repr__(self) -> str:
        return f"<WhepSource {self._name}>"
