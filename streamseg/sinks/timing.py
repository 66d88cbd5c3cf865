"""Keeps every frame's own presentation time across an encoder and into a container.

Most encoders take the source's time base as it is, and their packets carry its ticks. Some refuse
(MPEG-1/2 have a list of rates, MPEG-4 only 16 bits for a second): these see a plain count of
pictures at a constant rate, and the true times are put back into their packets. AVI has nothing but
that count; there the times are rounded to it, upwards where two would meet.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av

    from streamseg.frames import Frame

__all__ = ["Clock"]

_DEEPEST_REORDER = 64  # pictures; no encoder holds back more


class Clock:
    """The time stamps of one video stream.

    Args:
        time_base: Seconds per tick in the result.
        rate: Frames per second, about; for durations that nobody knows.
        counted: The rate to give an encoder that counts pictures, None for real time stamps.
        shift_s: Added to all time stamps, exact.
        constant: Whether the container has only the count.
    """

    def __init__(
        self,
        time_base: Fraction,
        rate: Fraction,
        *,
        counted: Fraction | None = None,
        shift_s: Fraction = Fraction(0),
        constant: bool = False,
    ) -> None:
        self.time_base = Fraction(1) / rate if constant else time_base
        self.encoder_time_base = self.time_base if counted is None else Fraction(1) / counted
        self._step = max(1, round(Fraction(1) / rate / self.time_base))
        self._last_dts: int | None = None
        self.moved = 0
        self.rounded = 0
        self.last_pts: int | None = None
        self.first_pts: int | None = None
        self.end = 0
        self._constant = constant
        self.counted = counted is not None
        self._shift = shift_s / self.time_base
        self._pending: dict[int, tuple[int, int]] = {}
        self._decoding: dict[int, int] = {}
        self._count = 0

    def stamp(self, frame: Frame, video: av.VideoFrame) -> None:
        """Give the encoder's picture its time stamp, and remember the true one.

        Args:
            frame: The frame as it came.
            video: The picture for the encoder, which may be written into.
        """
        scale = frame.time_base / self.time_base
        if frame.pts is None:
            pts = self.end if self.last_pts is not None else 0
        else:
            exact = frame.pts * scale + self._shift
            pts = round(exact)
            self.rounded += self._constant and exact != pts
        if self.last_pts is not None and pts <= self.last_pts:
            # Two pictures at one moment: containers cannot say so, and none may be lost.
            pts = self.last_pts + 1
            self.moved += not self._constant
        duration = max(0, round(frame.video.duration * scale)) or self._step
        if self.first_pts is None:
            self.first_pts = pts
        self.last_pts, self.end = pts, pts + duration
        ticks = self._count if self.counted else pts
        self._pending[ticks] = (pts, duration)
        if self.counted:
            self._decoding[ticks] = pts
        video.pts = ticks
        video.time_base = self.encoder_time_base
        video.duration = 1 if self.counted else duration
        self._count += 1

    def restore(self, packet: av.Packet[Any]) -> None:
        """Put the true time stamps, in ``time_base``, into a packet from the encoder."""
        known = None if packet.pts is None else self._pending.pop(packet.pts, None)
        if self.counted and known is not None:
            packet.dts = self._decoding_time(packet.dts, known[0])
        if known is not None:
            packet.pts, packet.duration = known
        if packet.pts is not None:
            packet.dts = self._sane_dts(packet.dts, packet.pts)
        packet.time_base = self.time_base

    def _sane_dts(self, dts: int | None, pts: int) -> int:
        """The encoder's decoding time, or a possible one where it gives none that can be.

        x265 leaves it uninitialised in streams that are shorter than its delay: muxers refuse
        most of what is found there, and believe the rest.
        """
        first, last = self.first_pts or 0, self.last_pts or 0
        lowest = first - (last - first) - _DEEPEST_REORDER * self._step
        previous = self._last_dts
        if dts is None or not lowest <= dts <= pts or (previous is not None and dts <= previous):
            # One tick apart, all before the first picture: in order, and never after the pts.
            dts = first - len(self._pending) if previous is None else previous + 1
            dts = min(dts, pts)
        self._last_dts = dts
        return dts

    def _decoding_time(self, count: int | None, pts: int) -> int:
        """The time of the picture with this number; before the first one, steps backwards."""
        if count is None:
            return pts
        if count < 0:
            return (self.first_pts or 0) + count * self._step
        for old in [number for number in self._decoding if number < count]:
            del self._decoding[old]
        return self._decoding.get(count, pts)
