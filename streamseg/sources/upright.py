"""Upright: pictures as a viewer should see them, all of one size and pixel format.

Input: decoded pictures in presentation order. Output: as many pictures, in the same order, each
with the time stamp and colour description that it came with:

- turned and mirrored as their display matrix says, to the nearest quarter turn;
- deinterlaced, where a picture is flagged as interlaced (bwdif, one picture for two fields);
- of the first picture's size and pixel format: later ones of another size are scaled to it without
  regard to their shape, as FFmpeg's own encoder front end does.

Pictures that need none of this pass through untouched; a filter graph exists only from the first
picture on that needs one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.filter
import numpy as np

from streamseg.side_data import safe_side_data

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Turn", "Upright"]

# Formats without planes of samples; nothing after the source could work on them.
_PLAIN_FORMATS = {"pal8": "rgba", "monow": "gray", "monob": "gray"}

_EXIF = 31  # kind of side data (enum AVFrameSideDataType) that FFmpeg's filters have no name for


@dataclass(frozen=True, slots=True)
class Turn:
    """How a stored picture has to be turned: one of the eight symmetries of a rectangle.

    Attributes:
        swap: Mirror at the main diagonal first; width and height change places.
        hflip: Mirror left to right then.
        vflip: Mirror top to bottom then.
        rest_degrees: What remains to the matrix' true angle; not applied.
    """

    swap: bool = False
    hflip: bool = False
    vflip: bool = False
    rest_degrees: float = 0.0

    @staticmethod
    def of(matrix: bytes) -> Turn:
        """Read FFmpeg's display matrix.

        Args:
            matrix: Nine native int32 (a, b, u, c, d, v, x, y, w); a point (x, y) of the stored
                picture is shown at (ax + cy, bx + dy).

        Source: ISO/IEC 14496-12, 6.2.2; libavutil/display.h.
        """
        a, b, _, c, d = (float(value) for value in np.frombuffer(matrix, np.int32)[:5])
        swap = abs(b) + abs(c) > abs(a) + abs(d)
        across, down = (c, b) if swap else (a, d)
        if not across or not down:
            return Turn()  # not a picture any more: a degenerate matrix is ignored
        along, aside = (abs(b), abs(d)) if swap else (abs(a), abs(b))
        rest = float(np.degrees(np.arctan2(aside, along)))
        return Turn(swap, across < 0, down < 0, rest)

    @property
    def filters(self) -> list[str]:
        """The libavfilter filters that do it."""
        if self.swap:
            direction = {
                (False, False): "cclock_flip",
                (True, False): "clock",
                (False, True): "cclock",
                (True, True): "clock_flip",
            }[self.hflip, self.vflip]
            return [f"transpose=dir={direction}"]
        return ["hflip"] * self.hflip + ["vflip"] * self.vflip


@dataclass(frozen=True, slots=True)
class _Input:
    """What a filter graph is built for."""

    width: int
    height: int
    pixel_format: str
    space: int
    range: int
    turn: Turn
    deinterlace: bool


class Upright:
    """Turns, deinterlaces and fits pictures, one in, one out (later by one when deinterlacing).

    Args:
        threads: How many threads a filter may use.
    """

    def __init__(self, *, threads: int = 1) -> None:
        self._threads = threads
        self._target: tuple[int, int, str] | None = None
        self._input: _Input | None = None
        self._graph: av.filter.Graph | None = None
        self._stamps: deque[tuple[int | None, int, Fraction | None]] = deque()
        self._deinterlace = False
        self._swapped = False
        self._turn: Turn | None = None
        self._rotation = 0
        self._seen = 0
        self._told: set[str] = set()
        self._notices: list[str] = []

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know, a line each, once for each kind."""
        return self._notices

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of all that comes out; known after the first ``push``."""
        if self._target is None:
            raise ValueError("no picture was pushed yet")
        return self._target[:2]

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name of the pixel format of all that comes out, after the first ``push``."""
        if self._target is None:
            raise ValueError("no picture was pushed yet")
        return self._target[2]

    @property
    def swapped(self) -> bool:
        """Whether the first picture's width and height changed places."""
        return self._swapped

    def push(self, video: av.VideoFrame) -> list[av.VideoFrame]:
        """Take the next picture and return those that are ready, in order.

        Raises:
            av.FFmpegError: If a filter refuses the picture.
        """
        # The whole matrix is read only when the angle changes: it takes a filter graph.
        if self._turn is None or video.rotation != self._rotation:
            self._turn, self._rotation = _turn_of(video), video.rotation
        turn = self._turn
        name = video.format.name
        if self._target is None:
            width, height = video.width, video.height
            size = (height, width) if turn.swap else (width, height)
            self._target = (*size, _PLAIN_FORMATS.get(name, name))
            self._swapped = turn.swap
        self._tell_changes(video, turn)
        if video.interlaced_frame and video.width >= 3 and video.height >= 4:
            self._deinterlace = True  # and stays on: progressive pictures pass the filter as is
        wanted = _Input(
            video.width, video.height, name, int(video.colorspace), int(video.color_range), turn,
            self._deinterlace,
        )  # fmt: skip
        self._seen += 1
        ready: list[av.VideoFrame] = []
        if wanted != self._input:
            ready = self.flush()
            self._graph = self._build(wanted, video.time_base)
            self._input = wanted  # only now: one that failed is to fail again, not to pass
        if self._graph is None:
            return [*ready, video]
        self._stamps.append((video.pts, video.duration, video.time_base))
        self._graph.vpush(video)
        return ready + self._pull()

    def flush(self) -> list[av.VideoFrame]:
        """Return what is still held back; ``push`` may be called again afterwards."""
        if self._graph is None:
            return []
        self._graph.vpush(None)
        ready = self._pull()
        self._graph = self._input = None
        self._stamps.clear()
        return ready

    def _build(self, wanted: _Input, time_base: Fraction | None) -> av.filter.Graph | None:
        assert self._target is not None
        width, height, pixel_format = self._target
        filters = []
        if wanted.deinterlace:
            filters.append("bwdif=mode=send_frame:parity=auto:deint=interlaced")
        filters += wanted.turn.filters
        turned = (
            (wanted.height, wanted.width) if wanted.turn.swap else (wanted.width, wanted.height)
        )
        if turned != (width, height):
            filters.append(f"scale={width}:{height}:flags=bicubic")
        if not filters and wanted.pixel_format == pixel_format:
            return None
        # Some filters take fewer formats than decoders give (transpose none of 4:2:2): libavfilter
        # then converts on the way in, and this puts the stream's own format back.
        filters.append(f"format=pix_fmts={pixel_format}")
        # What asked for the turn must go with it, or an encoder writes it down for the next player.
        filters.append("sidedata=mode=delete:type=DISPLAYMATRIX")
        filters.append(f"sidedata=mode=delete:type={_EXIF}")
        graph = av.filter.Graph()
        graph.threads = self._threads
        # Not Graph.add_buffer: without the colour description a conversion would guess it.
        nodes = [
            graph.add(
                "buffer",
                f"video_size={wanted.width}x{wanted.height}:pix_fmt={wanted.pixel_format}:"
                f"time_base={time_base or Fraction(1, 1_000_000)}:"
                f"colorspace={wanted.space}:range={wanted.range}",
            )
        ]
        for text in filters:
            filter_name, _, arguments = text.partition("=")
            nodes.append(graph.add(filter_name, arguments or None))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph

    def _pull(self) -> list[av.VideoFrame]:
        assert self._graph is not None
        ready: list[av.VideoFrame] = []
        while True:
            try:
                video = self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return ready
            # One in, one out, in order: the stamps go around the filters, because bwdif halves the
            # time base and loses the duration of the last picture.
            pts, duration, time_base = self._stamps.popleft()
            video.pts = pts
            if time_base is not None:
                video.time_base = time_base
            video.duration = duration
            ready.append(video)

    def _tell_changes(self, video: av.VideoFrame, turn: Turn) -> None:
        assert self._target is not None
        width, height, pixel_format = self._target
        turned = (video.height, video.width) if turn.swap else (video.width, video.height)
        if turned != (width, height):
            self._tell(
                "size",
                f"the picture's size changes from {width}x{height} to {turned[0]}x{turned[1]} at "
                f"frame {self._seen}: all frames are scaled to the first size",
            )
        name = _PLAIN_FORMATS.get(video.format.name, video.format.name)
        if name != pixel_format:
            self._tell(
                "format",
                f"the pixel format changes from {pixel_format} to {name} at frame {self._seen}: "
                "all frames are converted to the first one",
            )
        if turn.rest_degrees > 1:
            self._tell(
                "angle",
                f"the file asks for a tilt of {turn.rest_degrees:.0f} degrees beyond a quarter "
                "turn: only quarter turns are applied",
            )

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._notices.append(text)


def _turn_of(video: av.VideoFrame) -> Turn:
    matrix = safe_side_data(video, ("DISPLAYMATRIX",)).get("DISPLAYMATRIX")
    if matrix is not None:
        return Turn.of(matrix)
    # Not readable (a colour tag that filters refuse): the angle is, without telling mirrored ones.
    angle = np.radians(-video.rotation)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    values = np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 1]) * (1 << 16)
    return Turn.of(np.rint(values).astype(np.int32).tobytes())
