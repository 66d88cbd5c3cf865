"""Incoming packets put in order and together: a frame is complete at its marker.

aiortc's own buffer gives a frame out when the next one's first packet is there, which costs a frame
of latency, gives out one frame a packet, and waits for a lost packet until 512 later ones are there.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpreceiver import NackGenerator

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiortc.rtp import RtpPacket

__all__ = ["IncomingFrame", "PacketBuffer", "RepeatedNack"]

_CAPACITY = 512  # packets: a keyframe of 600 kB
_ASK_AGAIN_S = 0.06
_TRACKED = 128  # packets back; aiortc, as a sender, keeps that many


class IncomingFrame(JitterFrame):
    """One encoded frame.

    Attributes:
        arrived_s: When its last packet came, ``time.monotonic``.
        after_loss: Whether frames are missing before it.
        following: Frames that became complete with the same packet; bounded by the buffer.
    """

    def __init__(self, data: bytes, timestamp: int, *, arrived_s: float, after_loss: bool) -> None:
        super().__init__(data, timestamp)
        self.arrived_s = arrived_s
        self.after_loss = after_loss
        self.following: list[IncomingFrame] = []


class PacketBuffer:
    """Takes the place of ``aiortc.jitterbuffer.JitterBuffer``; belongs to the event loop.

    Attributes:
        heard_s: When the last packet came, ``time.monotonic``; None before the first.
        lost: Packets that were given up.
        recovered: Packets that came after later ones and in time.

    Args:
        patience_s: How long a missing packet is waited for.
        each: Whether each packet is a frame of its own, as with Opus.
        skipped: Called when a packet is given up.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        *,
        patience_s: float,
        each: bool = False,
        skipped: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.heard_s: float | None = None
        self.lost = 0
        self.recovered = 0
        self._patience_s = patience_s
        self._each = each
        self._skipped = skipped
        self._clock = clock
        self._later: dict[int, RtpPacket] = {}  # bounded by _CAPACITY
        self._parts: list[RtpPacket] = []  # the frame that is being put together; the same
        self._next: int | None = None  # number of the packet that is to come, counted on past 65535
        self._newest = 0
        self._since_s: float | None = None  # waiting for a missing packet since
        self._partial: int | None = None  # time stamp of a frame whose beginning is missing
        self._after_loss = False

    def add(self, packet: RtpPacket) -> tuple[bool, IncomingFrame | None]:
        """Take a packet; return whether a keyframe is needed, and the frames that are complete."""
        now = self.heard_s = self._clock()
        number = self._number(packet.sequence_number)
        if self._next is None:
            self._next = number
        missed = False
        if number < self._next:
            if self._next - number <= _CAPACITY:
                return False, None  # late, or again
            missed = True  # the sender began anew
            self._begin_anew(number)
        elif number - self._next >= _CAPACITY:
            missed = True
            self._begin_anew(number)
        if number < self._newest and number not in self._later:
            self.recovered += 1
        self._later.setdefault(number, packet)
        frames = self._complete(now)
        if not self._later:
            self._since_s = None
        elif self._since_s is None or frames:
            self._since_s = now
        elif now - self._since_s > self._patience_s or len(self._parts) >= _CAPACITY:
            missed = True
            self._skip()
            frames += self._complete(now)
            self._since_s = now if self._later else None
        if not frames:
            return missed and not self._each, None
        frames[0].following = frames[1:]
        return missed and not self._each, frames[0]

    def _number(self, sequence_number: int) -> int:
        if self._next is None:
            self._newest = sequence_number
            return sequence_number
        step = ((sequence_number - self._newest + 0x8000) & 0xFFFF) - 0x8000
        number = self._newest + step
        self._newest = max(self._newest, number) if step > -_CAPACITY else number
        return number

    def _complete(self, now: float) -> list[IncomingFrame]:
        frames: list[IncomingFrame] = []
        assert self._next is not None
        while (packet := self._later.pop(self._next, None)) is not None:
            self._next += 1
            if self._partial is not None and packet.timestamp == self._partial:
                continue
            self._partial = None
            if self._parts and self._parts[0].timestamp != packet.timestamp:
                self._put_together(frames, now)
            self._parts.append(packet)
            if packet.marker or self._each:
                self._put_together(frames, now)
        return frames

    def _put_together(self, frames: list[IncomingFrame], now: float) -> None:
        parts, self._parts = self._parts, []
        # The receiver leaves what it took out of the payload in this attribute.
        bodies: list[Any] = [part._data for part in parts]  # type: ignore[attr-defined]
        data = b"".join(bodies)
        if not data:
            return  # padding that probes the bandwidth
        frames.append(
            IncomingFrame(data, parts[0].timestamp, arrived_s=now, after_loss=self._after_loss)
        )
        self._after_loss = False

    def _skip(self) -> None:
        """Give up what is missing before the packets that are there."""
        assert self._next is not None
        first = min(self._later)
        self.lost += first - self._next
        self._next = first
        self._parts.clear()
        if not self._each:
            self._partial = self._later[first].timestamp
        self._after_loss = True
        self._skipped()

    def _begin_anew(self, number: int) -> None:
        self._later.clear()
        self._parts.clear()
        self._next = self._newest = number
        self._partial = None
        self._since_s = None
        self._after_loss = True
        self._skipped()


class RepeatedNack(NackGenerator):
    """Asks for missing packets again until they are there or given up, not once.

    aiortc's own asks for everything that is missing each time that another packet is: where a tenth
    is lost, and the way takes 0.1 s, what came was twice what was sent. Here each packet has its own
    time at which it is asked for again.

    Attributes:
        missing: The numbers to ask for now, when ``add`` has returned True.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._asked_s: dict[int, float] = {}  # when for which number; bounded by _TRACKED

    def add(self, packet: RtpPacket) -> bool:
        """Take a packet; return whether there is something to ask for."""
        now, number = self._clock(), packet.sequence_number
        newest = number if self.max_seq is None else self.max_seq
        step = (number - newest) & 0xFFFF
        if step < 0x8000:
            newest = self.max_seq = number
            for back in range(min(step, _TRACKED) - 1, 0, -1):
                self._asked_s[(number - back) & 0xFFFF] = -math.inf
        else:
            self._asked_s.pop(number, None)
        for old in [old for old in self._asked_s if (newest - old) & 0xFFFF >= _TRACKED]:
            del self._asked_s[old]
        self.missing = {old for old, at_s in self._asked_s.items() if now - at_s >= _ASK_AGAIN_S}
        self._asked_s |= dict.fromkeys(self.missing, now)
        return bool(self.missing)

    def forget(self) -> None:
        """Ask no more for what was missing so far."""
        self._asked_s.clear()
