"""PeerSound: the sound of a connection as packets of a stream, for those who record it.

A connection has no container, and a stream of PyAV's belongs to one. So a container in memory with
one packet of silence lends its stream: it says all that a file has to know of Opus.

Pictures and sound have time stamps with origins of their own. They are laid upon each other by when
they arrived: the packet that comes first after a picture belongs to that picture's time. That is as
exact as the network is even, some hundredths of a second.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av

if TYPE_CHECKING:
    from av.stream import Stream

__all__ = ["PeerSound"]

_RATE = 48_000  # RFC 7587: always, whatever is within
_TIME_BASE = Fraction(1, _RATE)
_MAX_PACKETS = 512  # 10 s; whoever takes them does so after every picture
_JUMP_S = 1.0  # a time stamp that is further from where it should be has a new origin


class PeerSound:
    """Packets of Opus between a connection, on the event loop, and who takes them.

    Attributes:
        dropped: Packets that nobody took in time, or that came before the first picture.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._container: Any = av.open(io.BytesIO(_silence()))
        self._packets: deque[Any] = deque()  # bounded by _MAX_PACKETS
        self._lock = threading.Lock()  # held for a few instructions
        self._picture: tuple[float, float] | None = None  # when the newest came; its time stamp
        self._offset: int | None = None  # of the stream's time over the sender's, in 1/48000 s
        self._last = -1

    @property
    def stream(self) -> Stream:
        """The stream that the packets belong to."""
        stream: Stream = self._container.streams.audio[0]
        return stream

    def picture(self, arrived_s: float, pts_s: float) -> None:
        """Say when a picture came, by the monotonic clock, and its time in the stream; in seconds."""
        with self._lock:
            self._picture = (arrived_s, pts_s)

    def hear(self, data: bytes, pts: int, arrived_s: float) -> None:
        """Take a packet.

        Args:
            data: One packet of Opus.
            pts: Its time stamp, in 1/48000 s from the sender's own origin.
            arrived_s: When it came, by the monotonic clock in seconds.
        """
        with self._lock:
            if self._picture is None:
                self.dropped += 1
                return
            picture_s, picture_pts_s = self._picture
            expected = round((picture_pts_s + arrived_s - picture_s) * _RATE)
            if self._offset is None or abs(pts + self._offset - expected) > _JUMP_S * _RATE:
                self._offset = max(expected, self._last + 1) - pts
            place = pts + self._offset
            if place <= self._last or place < 0:
                self.dropped += 1  # late: what follows has been heard
                return
            self._last = place
            packet: Any = av.Packet(data)
            packet.stream = self.stream
            packet.pts = packet.dts = place
            packet.time_base = _TIME_BASE
            self._packets.append(packet)
            if len(self._packets) > _MAX_PACKETS:
                self._packets.popleft()
                self.dropped += 1

    def take(self) -> list[Any]:
        """Return the packets that came since, in their order."""
        with self._lock:
            packets = list(self._packets)
            self._packets.clear()
        return packets

    def close(self) -> None:
        """Let go of packets and stream, in this order."""
        self.take()
        self._container.close()


def _silence() -> bytes:
    """Return a Matroska file of 20 ms of silence in Opus, stereo as RFC 7587 has it."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream: Any = container.add_stream("libopus", rate=_RATE, layout="stereo")
        frame = av.AudioFrame("flt", "stereo", 960)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts = _RATE, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()
