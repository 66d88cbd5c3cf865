"""AudioRelay and OutgoingAudio: Opus packets from one connection to others, untouched."""

from __future__ import annotations

import asyncio
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from streamseg.webrtc.tuning_encoding import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AudioRelay", "OutgoingAudio"]

TIME_BASE = Fraction(1, 48_000)
_FRAME = 960  # 20 ms
_QUEUE = 50  # packets: a second; a connection that is that far behind has no use for more
_JUMP = 10 * 48_000


class AudioRelay:
    """The sound that comes in over a connection; belongs to the event loop.

    Attributes:
        packets: How many packets came.
    """

    def __init__(self) -> None:
        self.packets = 0
        self._listeners: list[Callable[[bytes, int], None]] = []

    def listen(self, listener: Callable[[bytes, int], None]) -> None:
        """Have each packet's bytes and its time stamp, in 1/48000 s, given to this function."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def leave(self, listener: Callable[[bytes, int], None]) -> None:
        """Have no more packets given to it."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def deliver(self, data: bytes, pts: int) -> None:
        """Give a packet to all who listen."""
        self.packets += 1
        for listener in tuple(self._listeners):
            listener(data, pts)


class OutgoingAudio(MediaStreamTrack):
    """A track that sends the packets it is given."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self._packets: deque[tuple[bytes, int]] = deque()  # bounded by _QUEUE
        self._ready = asyncio.Event()
        self._timeline = Timeline(_FRAME, _JUMP)

    def put(self, data: bytes, pts: int) -> None:
        """Send a packet; the oldest is dropped if too many wait."""
        if self.readyState != "live":
            return
        self._packets.append((data, pts))
        if len(self._packets) > _QUEUE:
            self._packets.popleft()
            self.dropped += 1
        self._ready.set()

    async def recv(self) -> av.Packet[Any]:
        """Return the next packet, for aiortc."""
        while not self._packets:
            if self.readyState != "live":
                raise MediaStreamError
            self._ready.clear()
            await self._ready.wait()
        data, pts = self._packets.popleft()
        packet = av.Packet(data)
        packet.pts, packet.time_base = self._timeline.map(pts), TIME_BASE
        return packet

    def stop(self) -> None:
        """End the track; who waits in ``recv`` is woken."""
        super().stop()
        self._packets.clear()
        self._ready.set()
