"""Time stamps: made usable, and cut to the part of a file that was asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import av

__all__ = ["Stamps", "Window"]

_TOLERANCE = Fraction(1, 1_000_000)  # seconds


class Stamps:
    """Makes time stamps strictly increasing, and makes up those that are missing.

    A usable stamp is passed on as it is. A missing one (raw H.264, some AVI) becomes the last one
    plus one frame's time. One that is equal to or a little before the last becomes the last plus
    one tick. One that jumps back by more than a second starts a new part of the file: it, and all
    that follow, are moved to after the last frame.

    Args:
        step: One frame's time in units of the time base, more than 0.
        second: One second in units of the time base.
    """

    def __init__(self, step: Fraction, second: Fraction) -> None:
        self._step = step
        self._second = second
        self._last: int | None = None
        self._exact = Fraction(0)
        self._offset = 0
        self.made_up = 0
        self.repaired = 0
        self.jumps = 0

    def next(self, pts: int | None, dts: int | None = None) -> int:
        """Return the time stamp of the next frame in presentation order.

        Args:
            pts: As the file has it, None where it has none.
            dts: For the first frame, where there is no pts.
        """
        last = self._last
        if pts is None:
            self.made_up += 1
            # The exact sum, so that a step that is not whole does not drift.
            exact = self._exact + self._step if last is not None else Fraction(dts or 0)
        else:
            exact = Fraction(pts + self._offset)
            if last is not None and exact <= last:
                if last - exact > self._second:
                    self.jumps += 1
                    self._offset += math.ceil(last + self._step - exact)
                    exact = Fraction(pts + self._offset)
                else:
                    self.repaired += 1
        stamp = round(exact)
        if last is not None and stamp <= last:
            stamp = last + 1
        self._last = stamp
        self._exact = exact if exact > stamp - 1 else Fraction(stamp)
        return stamp


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a file that was asked for, on the video stream's clock.

    Attributes:
        time_base: Seconds per tick of the video stream.
        first: First tick that is wanted, None for all from the beginning.
        end: First tick that is not wanted any more, None for all to the end.
        shift: What is taken off all time stamps, in ticks; the same moment for every stream, so
            that they stay in step.
    """

    time_base: Fraction
    first: int | None = None
    end: int | None = None
    shift: int = 0

    @staticmethod
    def of(
        time_base: Fraction, origin: Fraction, start_s: float | None, duration_s: float | None
    ) -> Window:
        """Compute the window.

        Args:
            time_base: Seconds per tick of the video stream.
            origin: When the file begins on its own clock, in seconds.
            start_s: Seconds after that, None for no start and no shift.
            duration_s: Length in seconds, None for all that follows.
        """
        first = end = None
        shift = 0
        begin = origin + _exact(start_s or 0.0)
        if start_s is not None:
            first, shift = _tick(begin, time_base), round(begin / time_base)
        if duration_s is not None:
            end = _tick(begin + _exact(duration_s), time_base)
        return Window(time_base, first, end, shift)

    def too_early(self, pts: int) -> bool:
        """Whether a video time stamp lies before the window."""
        return self.first is not None and pts < self.first

    def too_late(self, pts: int) -> bool:
        """Whether a video time stamp lies at or after the window's end."""
        return self.end is not None and pts >= self.end

    def place(self, packet: av.Packet[Any]) -> int:
        """Move a side packet onto the window's clock: -1 it is too early, 0 inside, 1 too late.

        A packet counts by its beginning; it is not cut.
        """
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None:
            return -1
        base = packet.time_base
        moment = stamp * base
        if self.first is not None:
            if moment < self.shift * self.time_base:
                return -1
            off = round(self.shift * self.time_base / base)
            packet.pts = max(0, stamp - off)
            if packet.dts is not None:
                packet.dts = packet.dts - off
        return int(self.end is not None and moment >= self.end * self.time_base)

    def chapters(self, chapters: Iterable[Any]) -> list[dict[str, Any]]:
        """Return chapters moved onto the window's clock, clipped to it, those outside left out."""
        kept = []
        for chapter in chapters:
            base = chapter["time_base"] or Fraction(1, 1000)
            start, end = chapter["start"] * base, chapter["end"] * base
            shift = self.shift * self.time_base
            if self.first is not None:
                start = max(start, self.first * self.time_base)
            if self.end is not None:
                end = min(end, self.end * self.time_base)
            if start >= end:
                continue
            kept.append(
                {
                    **chapter,
                    "start": round((start - shift) / base),
                    "end": round((end - shift) / base),
                    "time_base": base,
                }
            )
        return kept


def _exact(seconds: float) -> Fraction:
    return Fraction(seconds).limit_denominator(10_000_000)


def _tick(moment: Fraction, time_base: Fraction) -> int:
    """Round up, but not because of a rounding error in a time given as a decimal number."""
    return math.ceil(moment / time_base - max(Fraction(1, 100), _TOLERANCE / time_base))
