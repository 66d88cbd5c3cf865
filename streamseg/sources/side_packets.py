"""SidePackets: the sound of a live source, through reconnects, in time with the pictures.

PyAV's streams die with their container, and a connection is a container. So the first connection's
side streams are copied into a container that is never written, which lives as long as the source;
every packet is handed out as one of these copies' streams, whatever connection it came by.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import av
import av.error

from streamseg.sources.live_time import TIME_BASE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av.stream import Stream

    from streamseg.sources.live_time import LiveTimeline

__all__ = ["SidePackets"]

# What may wait to be taken: 20 s of AAC, or some seconds of uncompressed sound. A consumer takes
# packets after every frame; only one that is stuck comes near.
_MAX_PACKETS = 1024
_MAX_BYTES = 4 * 2**20
# Packets of a part of the stream whose first picture has not come: a second or two of sound.
_MAX_HELD = 128
_KINDS = ("audio", "subtitle")


class SidePackets:
    """Packets between the thread that reads them and who takes them.

    ``add`` and ``place`` belong to one thread at a time; ``take`` may come from another.
    """

    def __init__(self) -> None:
        self._shelf: Any = None
        self._copies: list[Any] = []
        self._of_index: dict[int, Any] = {}
        self._held: deque[Any] = deque()
        self._ready: deque[Any] = deque()
        self._lock = threading.Lock()  # of the packets that are ready; held for a few instructions
        self._ready_bytes = 0
        self._last_dts: dict[int, int] = {}
        self.notices: list[str] = []
        self.dropped = 0

    @property
    def streams(self) -> Sequence[Stream]:
        """The copies of the first connection's side streams."""
        return tuple(self._copies)

    def connect(self, streams: Sequence[Stream]) -> None:
        """Say which side streams a new connection has, while it is open.

        They are matched to those of the first connection by kind, codec and order.
        """
        self._held.clear()
        self._of_index = {}
        wanted = [s for s in streams if s.type in _KINDS and s.codec_context is not None]
        if self._shelf is None:
            self._shelf = av.open(os.devnull, "w", format="null")
            for stream in wanted:
                self._copy(stream)
            return
        free = list(self._copies)
        for stream in wanted:
            match = next((copy for copy in free if _kind(copy) == _kind(stream)), None)
            if match is None:
                self._tell(f"a new {stream.type} stream came with a new connection: it is left out")
                continue
            free.remove(match)
            self._of_index[stream.index] = match

    def _copy(self, stream: Any) -> None:
        try:
            copy: Any = self._shelf.add_stream_from_template(stream, opaque=True)
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self._tell(f"a {stream.type} stream cannot be carried over: {reason}")
            return
        copy.time_base = stream.time_base
        copy.metadata.update(stream.metadata)
        copy.disposition = int(stream.disposition)
        self._copies.append(copy)
        self._of_index[stream.index] = copy

    def add(self, packets: Sequence[Any]) -> None:
        """Take packets of the connection of this moment; they wait for ``place``."""
        for packet in packets:
            # Not packet.stream: it may belong to a container that is closed already.
            if packet.stream_index not in self._of_index or not packet.size:
                continue
            self._held.append(packet)
            if len(self._held) > _MAX_HELD:
                self._held.popleft()
                self.dropped += 1

    def place(self, timeline: LiveTimeline) -> None:
        """Make those ready whose place is known by now, in their order.

        Sound from before the first picture is left out: the time line begins with the picture.
        """
        waiting, self._held = self._held, deque()
        for packet in waiting:
            stamp = packet.dts if packet.dts is not None else packet.pts
            if stamp is None:
                continue
            base = packet.time_base
            offset = timeline.offset_of(stamp * base)
            if offset is None:
                self._held.append(packet)
                continue
            ticks = round(offset / base)
            placed = stamp + ticks
            copy = self._of_index[packet.stream_index]
            last = self._last_dts.get(copy.index)
            if placed < 0:
                continue
            if last is not None and placed * base <= last * TIME_BASE:
                self.dropped += 1  # heard already, before a jump or a new connection
                continue
            self._last_dts[copy.index] = int(placed * base / TIME_BASE)
            if packet.pts is not None:
                packet.pts += ticks
            if packet.dts is not None:
                packet.dts += ticks
            packet.stream = copy
            packet.time_base = base
            self._make_ready(packet)

    def _make_ready(self, packet: Any) -> None:
        with self._lock:
            self._ready.append(packet)
            self._ready_bytes += packet.size
            while len(self._ready) > _MAX_PACKETS or self._ready_bytes > _MAX_BYTES:
                self._ready_bytes -= self._ready.popleft().size
                self.dropped += 1

    def take(self) -> list[Any]:
        """Return, once each and in order, the packets that are ready."""
        with self._lock:
            packets = list(self._ready)
            self._ready.clear()
            self._ready_bytes = 0
        return packets

    def close(self) -> None:
        """Let go of packets and streams, in this order."""
        self._held.clear()
        self.take()
        self._of_index.clear()
        self._copies.clear()
        if self._shelf is not None:
            self._shelf.close()

    def _tell(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)


def _kind(stream: Any) -> tuple[str, str]:
    return stream.type, stream.codec_context.name
