"""PeerSource: pictures that come in over a connection."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

import anyio

from streamseg.abc import Source, SourceStatistics
from streamseg.errors import SourceOpenError
from streamseg.frames import Colour, Frame, StreamInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import av

__all__ = ["PeerSource"]


class PeerSource(Source):
    """What a connection receives: always the newest picture. It belongs to its `Peer`.

    Time stamps are those of the sender, in units of 1/90000 s from 0 at the first packet. Pictures
    may change their size while a call goes on. They are upright: turning by a header extension is
    not agreed to, so that senders turn them before encoding.

    Args:
        name: For messages.
        timeout_s: How long ``open`` waits for the first picture.
        reason: Says why the connection ended.
        dropped: Counts what was dropped before it was decoded, by cause.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float,
        reason: Callable[[], str],
        dropped: Callable[[], Mapping[str, int]],
    ) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._reason = reason
        self._dropped_earlier = dropped
        self._lock = threading.Lock()  # held for a few instructions
        self._newest: tuple[av.VideoFrame, float] | None = None
        self._index = -1
        self._delivered = 0
        self._superseded = 0
        self._unused = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = asyncio.Event()
        self._woken = False
        self._opened = False
        self._closed = False
        self._ended = False
        self.size: tuple[int, int] | None = None

    def bind(self) -> None:
        """Remember the loop that is running, before the decoder's thread may call ``put``."""
        self._loop = asyncio.get_running_loop()

    def put(self, video: av.VideoFrame, arrived_s: float) -> None:
        """Take a picture, in the decoder's thread; one that was not received gives way."""
        self.size = (video.width, video.height)
        with self._lock:
            if self._closed or self._ended:  # the decoder was at it
                self._unused += 1
                return
            self._index += 1
            if self._newest is not None:
                self._superseded += 1
            self._newest = (video, arrived_s)
            wake, self._woken = not self._woken, True
        if wake and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._ready.set)
            except RuntimeError:  # the loop has ended: nobody waits any more
                return

    def end(self) -> None:
        """Say that nothing more comes; what waits is still received."""
        with self._lock:
            self._ended = True
        self._ready.set()

    def release(self) -> None:
        """Let go what was not received by now: whoever still holds the source has no use for it."""
        with self._lock:
            if self._newest is not None:
                self._newest = None
                self._unused += 1

    async def open(self) -> StreamInfo:
        """Wait for the first picture.

        Raises:
            SourceOpenError: If none comes in time, or the connection ends.
            anyio.ClosedResourceError: If it was closed.
        """
        with anyio.move_on_after(self._timeout_s):
            await self._wait()
        if self._closed:
            raise anyio.ClosedResourceError
        with self._lock:
            newest = self._newest
        if newest is None:
            if self._ended:
                raise SourceOpenError(f"{self._name}: the connection ended: {self._reason()}")
            raise SourceOpenError(
                f"{self._name}: no picture came within {self._timeout_s:g} s: is anything sent?"
            )
        self._opened = True
        video = newest[0]
        return StreamInfo(
            name=self._name,
            width=video.width,
            height=video.height,
            pixel_format=video.format.name,
            time_base=Fraction(1, 90_000),
            live=True,
            colour=Colour.of(video),
        )

    async def receive(self) -> Frame:
        """Return the newest picture, waiting for one; cancelling loses none.

        Raises:
            anyio.EndOfStream: When the connection has ended, every time.
            anyio.ClosedResourceError: If it is closed or was never opened.
        """
        if self._closed or not self._opened:
            raise anyio.ClosedResourceError
        await self._wait()
        with self._lock:
            newest, self._newest = self._newest, None
            index = self._index
        if self._closed:
            raise anyio.ClosedResourceError
        if newest is None:
            raise anyio.EndOfStream
        self._delivered += 1
        video, arrived_s = newest
        return Frame(video=video, index=index, captured_s=arrived_s)

    async def aclose(self) -> None:
        """Receive nothing more; the connection stays until its peer is closed."""
        with self._lock:
            self._closed = True
        self.release()
        self._ready.set()

    def statistics(self) -> SourceStatistics:
        """Return the counters of this moment."""
        dropped = Counter(self._dropped_earlier())
        if self._superseded:
            dropped["superseded"] += self._superseded
        if self._unused:
            dropped["closed"] += self._unused
        return SourceStatistics(delivered=self._delivered, dropped=dict(dropped))

    async def _wait(self) -> None:
        """Wait until there is a picture, or none will come."""
        while True:
            with self._lock:
                if self._newest is not None or self._ended or self._closed:
                    return
                self._woken = False
                self._ready.clear()
            await self._ready.wait()

    def __repr__(self) -> str:
        return f"<PeerSource {self._name}>"
