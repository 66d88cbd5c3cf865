"""Checks a finished file by reading it once, without decoding, before it takes its name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.error

from streamseg.errors import SinkWriteError
from streamseg.sinks.target import reason

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Expected", "verify"]

_TOLERANCE_S = Fraction(1, 20)  # GIF counts in hundredths, AVI in frames


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must hold.

    Attributes:
        shown: The target, for messages.
        frames: Number of video packets.
        span_s: From the first to the last frame's time, in seconds.
        side: Index of a side stream -> its packets.
        exact: Whether the container keeps side packets one for one.
    """

    shown: str
    frames: int
    span_s: Fraction
    side: Mapping[int, int]
    exact: bool


def verify(path: Path, expected: Expected, stopped: threading.Event) -> None:
    """Read all packets and compare.

    Args:
        path: The file.
        expected: What must be in it.
        stopped: Ends the check early.

    Raises:
        SinkWriteError: If something is missing.
    """

    def fail(what: str) -> SinkWriteError:
        return SinkWriteError(f"cannot write {expected.shown}: the finished file {what}")

    counts: Counter[int] = Counter()
    first: Fraction | None = None
    last: Fraction | None = None
    try:
        with av.open(str(path)) as written:
            if not written.streams.video:
                raise fail("has no video stream")
            video = written.streams.video[0].index
            types = {stream.index: stream.type for stream in written.streams}
            raw = {s.index for s in written.streams.audio if s.codec_context.name.startswith("pcm")}
            for packet in written.demux():
                if stopped.is_set():
                    return
                if not packet.size:
                    continue
                counts[packet.stream_index] += 1
                if packet.stream_index == video and packet.pts is not None:
                    time = packet.pts * packet.time_base
                    first = time if first is None else min(first, time)
                    last = time if last is None else max(last, time)
    except av.error.FFmpegError as exc:
        raise fail(f"cannot be read back ({reason(exc)})") from exc
    if counts[video] != expected.frames:
        raise fail(f"has {counts[video]} frames, {expected.frames} were written")
    span = Fraction(0) if first is None or last is None else last - first
    if abs(span - expected.span_s) > _TOLERANCE_S and expected.exact:
        raise fail(f"spans {float(span):.3f} s instead of {float(expected.span_s):.3f} s")
    for index, number in expected.side.items():
        if index not in types:
            raise fail(f"lacks stream {index}")
        # Raw samples are cut into packets anew by every reader.
        enough = 1 if index in raw or not expected.exact else number
        if number and counts[index] < enough:
            raise fail(f"has {counts[index]} packets in stream {index}, {number} were written")
