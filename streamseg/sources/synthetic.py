"""TestSource: a test pattern in real time, with each frame's number in it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.filter
import cv2
import numpy as np

from streamseg.errors import ConfigError
from streamseg.frames import Colour, StreamInfo, luma_plane, plane_view
from streamseg.sources.live import Grabber, LiveSource
from streamseg.sources.pacing import Pacer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TestSource"]

_STALL_S = 5.0
_MAX_SIDE = 8192
_COLOUR = Colour(space=1, range=1, primaries=1, transfer=1)
# Levels of the number and of the bar behind it, limited range.
_WHITE, _BLACK = 235, 16


class TestSource(LiveSource):
    """FFmpeg's ``testsrc2`` as a camera would give it: yuv420p, BT.709, in real time.

    Args:
        width: In pixels, even, 64 to 8192.
        height: In pixels, even, 64 to 8192.
        fps: Pictures per second, more than 0, at most 1000.
        duration_s: When it ends, in seconds; never if None.
        number: Whether to draw the frame's number, which is ``Frame.index``.

    Raises:
        ConfigError: If a value is out of its range.
    """

    __test__ = False  # pytest takes every class of this name for a test

    def __init__(
        self,
        width: int = 1280,
        height: int = 720,
        fps: float = 30.0,
        *,
        duration_s: float | None = None,
        number: bool = True,
    ) -> None:
        for what, value in (("width", width), ("height", height)):
            if not 64 <= value <= _MAX_SIDE or value % 2:
                raise ConfigError(
                    f"{what} is {value}, expected an even number of 64 to {_MAX_SIDE}"
                )
        if not 0 < fps <= 1000:
            raise ConfigError(f"fps is {fps}, expected more than 0, at most 1000")
        if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
            raise ConfigError(f"duration_s is {duration_s}, expected more than 0 seconds")
        rate = Fraction(fps).limit_denominator(1001)
        count = None if duration_s is None else max(1, round(duration_s * rate))
        super().__init__(
            lambda: _Pattern(width, height, rate, count, number=number),
            name="test:",
            reconnect=None,
            stall_s=_STALL_S + 1 / fps,
        )


class _Pattern(Grabber):
    name = "test:"

    def __init__(
        self, width: int, height: int, rate: Fraction, count: int | None, *, number: bool
    ) -> None:
        self._size = width, height
        self._rate = rate
        self._count = count
        self._number = number
        self._next = 0
        self._planes: list[NDArray[Any]] = []
        self._pacer = Pacer()

    def open(self) -> StreamInfo:
        width, height = self._size
        # Drawn once: testsrc2 takes longer for a picture than everything else here.
        graph = av.filter.Graph()
        source = graph.add("testsrc2", f"size={width}x{height}:rate=1")
        shape = graph.add("format", "pix_fmts=yuv420p")
        graph.link_nodes(source, shape, graph.add("buffersink")).configure()
        pattern = graph.vpull()
        assert isinstance(pattern, av.VideoFrame)
        self._planes = [plane_view(pattern, plane).copy() for plane in range(3)]
        count = self._count
        return StreamInfo(
            name=self.name,
            width=width,
            height=height,
            pixel_format="yuv420p",
            time_base=1 / self._rate,
            average_rate=self._rate,
            live=True,
            frame_count=count,
            duration_s=None if count is None else float(count / self._rate),
            colour=_COLOUR,
        )

    def grab(self) -> av.VideoFrame | None:
        number = self._next
        if number == self._count or not self._pacer.wait(number / self._rate):
            return None
        self._next += 1
        video = av.VideoFrame(*self._size, "yuv420p")
        for plane, pixels in enumerate(self._planes):
            np.copyto(plane_view(video, plane), pixels)
        if self._number:
            _draw(luma_plane(video), str(number))
        video.pts, video.time_base = number, 1 / self._rate
        video.colorspace, video.color_range = _COLOUR.space, _COLOUR.range
        video.color_primaries, video.color_trc = _COLOUR.primaries, _COLOUR.transfer
        return video

    def close(self) -> None:
        self._planes = []

    def interrupt(self) -> None:
        self._pacer.stop()


def _draw(luma: NDArray[Any], text: str) -> None:
    """Write a text in the middle of a picture, on black, an eighth of it high."""
    height, width = luma.shape
    font = cv2.FONT_HERSHEY_SIMPLEX
    thickness = max(1, height // 120)
    scale = cv2.getFontScaleFromHeight(font, max(8, height // 8), thickness)
    (text_width, text_height), below = cv2.getTextSize(text, font, scale, thickness)
    left, bottom = (width - text_width) // 2, (height + text_height) // 2
    margin = text_height // 4
    luma[
        max(0, bottom - text_height - margin) : bottom + below + margin,
        max(0, left - margin) : left + text_width + margin,
    ] = _BLACK
    cv2.putText(luma, text, (left, bottom), font, scale, _WHITE, thickness, cv2.LINE_8)
