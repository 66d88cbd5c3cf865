"""Checks a finished recording by opening it and reading its last seconds, however long it is."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.error

from streamseg.errors import SinkWriteError
from streamseg.sinks.target import reason

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["verify_end"]

_TOLERANCE_S = Fraction(1, 20)
_TAIL_S = Fraction(3)


def verify_end(path: Path, shown: str, frames: int, span_s: Fraction) -> None:
    """Check that a file opens and that its last picture is there, reading only its end.

    Args:
        path: The file.
        shown: Its name for messages.
        frames: How many pictures it must hold, where it says so itself.
        span_s: From the first to the last picture's time, in seconds.

    Raises:
        SinkWriteError: If something is missing.
    """

    def fail(what: str) -> SinkWriteError:
        return SinkWriteError(f"cannot write {shown}: the finished file {what}")

    last: Fraction | None = None
    try:
        with av.open(str(path)) as written:
            if not written.streams.video:
                raise fail("has no video stream")
            video = written.streams.video[0]
            if video.frames and video.frames != frames:
                raise fail(f"has {video.frames} frames, {frames} were written")
            start = Fraction(0)
            if video.start_time is not None and video.time_base is not None:
                start = video.start_time * video.time_base
            wanted = start + max(span_s - _TAIL_S, Fraction(0))
            if span_s > _TAIL_S:
                written.seek(int(wanted * 1_000_000))
            for packet in written.demux(video):
                if packet.size and packet.pts is not None:
                    time = packet.pts * packet.time_base - start
                    last = time if last is None else max(last, time)
    except av.error.FFmpegError as exc:
        raise fail(f"cannot be read back ({reason(exc)})") from exc
    if last is None or abs(last - span_s) > _TOLERANCE_S:
        found = (
            "no picture at its end" if last is None else f"its last picture at {float(last):.3f} s"
        )
        raise fail(f"has {found} instead of {float(span_s):.3f} s")
