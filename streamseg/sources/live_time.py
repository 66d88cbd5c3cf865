"""LiveTimeline: puts pictures of several connections, and of clocks that jump, on one time line.

The first picture is at 0. While the device's clock runs on, its own time stamps are kept, moved by
one offset; so they keep the device's rhythm, which is better than that of their arrival. Where the
clock jumps, and after a new connection, the next picture is placed by the wall clock: as long after
the last one as it came after it. Pictures without a time stamp are all placed by the wall clock.

Packets of sound are moved by the offset of the pictures next to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

__all__ = ["TIME_BASE", "LiveTimeline"]

TIME_BASE = Fraction(1, 90_000)
"""Seconds per tick of every live source; the unit of MPEG-TS and RTP, exact for usual rates."""

# Decoders put pictures in order, so a step back is a jump; less than this is a sloppy muxer.
_BACK_S = Fraction(1, 5)
# A step forward may be longer than the wall clock says, where a server sends in bursts.
_AHEAD_S = 10
# How far sound may be apart from the picture before it is taken to be of another part.
_APART_S = 5


@dataclass(slots=True)
class _Part:
    """A stretch in which the device's clock ran on.

    Attributes:
        offset: What is added to the device's time, in seconds.
        last: The last picture's time on the device's clock, in seconds.
    """

    offset: Fraction
    last: Fraction


class LiveTimeline:
    """Places pictures and packets; not thread-safe."""

    def __init__(self) -> None:
        self._part: _Part | None = None
        self._before: _Part | None = None
        self._last_pts: int | None = None
        self._last_s = 0.0
        self.jumps = 0

    def disconnect(self) -> None:
        """Say that the connection was lost: the next picture has another clock."""
        self._part = self._before = None

    def place(self, time: Fraction | None, captured_s: float) -> int:
        """Return the next picture's pts in ticks of ``TIME_BASE``, greater than all before.

        Args:
            time: The picture's time on the device's clock in seconds, None where it has none.
            captured_s: When it came, in seconds of a clock that does not jump.
        """
        gap_s = captured_s - self._last_s
        if time is None:
            placed = self._by_wall_clock(gap_s)
        else:
            part = self._part
            if part is not None and not -_BACK_S < time - part.last < gap_s + _AHEAD_S:
                self.jumps += 1
                self._before, part = part, None
            if part is None:
                part = _Part(self._by_wall_clock(gap_s) - time, time)
            self._part = part
            part.last = max(part.last, time)
            placed = time + part.offset
        pts = round(placed / TIME_BASE)
        if self._last_pts is not None:
            pts = max(pts, self._last_pts + 1)
        self._last_pts = pts
        self._last_s = captured_s
        return pts

    def offset_of(self, time: Fraction) -> Fraction | None:
        """Return what to add to a packet's time, in seconds; None while that is not known.

        Args:
            time: The packet's time on the device's clock in seconds.
        """
        for part in (self._part, self._before):
            if part is not None and abs(time - part.last) < _APART_S:
                return part.offset
        return None

    def _by_wall_clock(self, gap_s: float) -> Fraction:
        if self._last_pts is None:
            return Fraction(0)
        gap = Fraction(max(0.0, gap_s)).limit_denominator(1_000_000)
        return self._last_pts * TIME_BASE + gap
