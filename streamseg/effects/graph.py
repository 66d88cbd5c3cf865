"""Filter graphs of libavfilter with several inputs and one output, fed frame by frame.

Two graphs do everything: one converts a picture that has no planar YUV form of its own, one merges
two pictures by a mask. Every input is re-stamped by ``setpts=N``, so that pushed frames are never
written to, frames without pts work, and inputs pushed together always meet. Graphs run on one
thread: the merge is memory-bound (0.3 ms at 1080p, 8 bits), and the other core has work.

``av.VideoFrame.reformat`` is not used on frames that others may read: it changes the source's
colour tags while it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import av
import av.error
import av.filter

from streamseg.errors import EffectError
from streamseg.frames import Colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av.filter.context import FilterContext

__all__ = ["FilterGraph", "Port"]


@dataclass(frozen=True, slots=True)
class Port:
    """What the frames of one input look like; FFmpeg's numbers for space and range."""

    width: int
    height: int
    pixel_format: str
    space: int
    range: int

    @staticmethod
    def of(video: av.VideoFrame) -> Port:
        """Describe a picture, leaving out colour tags that libavfilter would refuse."""
        colour = Colour.of(video)
        # The buffer source fails on reserved matrix numbers; its frames may carry them all the same
        space = colour.space if 0 <= colour.space <= 14 and colour.space != 3 else 2
        if space == 0 and video.format.name.startswith(("yuv", "gray", "nv", "p0")):
            space = 2
        span = colour.range if colour.range in (1, 2) else 0
        return Port(video.width, video.height, video.format.name, space, span)

    def arguments(self) -> str:
        """Return the arguments of FFmpeg's ``buffer`` source."""
        return (
            f"video_size={self.width}x{self.height}:pix_fmt={self.pixel_format}"
            f":time_base=1/1000:pixel_aspect=1/1:range={self.range}:colorspace={self.space}"
        )


class FilterGraph:
    """A chain of filters whose first one takes all inputs.

    The graph is built for the first frames and again whenever their size, format or colour changes.

    Args:
        chain: (filter, arguments) in order, FFmpeg's names and syntax.
    """

    def __init__(self, chain: Sequence[tuple[str, str]]) -> None:
        self._chain = tuple(chain)
        self._ports: tuple[Port, ...] = ()
        self._inputs: list[FilterContext] = []
        self._output: FilterContext | None = None
        self._graph: av.filter.Graph | None = None

    def process(self, *videos: av.VideoFrame) -> av.VideoFrame:
        """Push one frame into each input and return what comes out.

        Args:
            videos: As many as the first filter has inputs; not written into.

        Returns:
            A new frame that the graph keeps no part of.

        Raises:
            EffectError: If FFmpeg refuses the frames.
        """
        ports = tuple(Port.of(video) for video in videos)
        try:
            if self._output is None or ports != self._ports:
                self._build(ports)
            assert self._output is not None
            for source, video in zip(self._inputs, videos, strict=True):
                source.push(video)
            out = self._output.pull()
        except (av.error.FFmpegError, ValueError) as exc:
            self.close()
            shown = ", ".join(f"{p.width}x{p.height} {p.pixel_format}" for p in ports)
            names = ",".join(name for name, _ in self._chain)
            raise EffectError(f"FFmpeg filter {names} failed on {shown}: {exc}") from exc
        assert isinstance(out, av.VideoFrame)
        return out

    def close(self) -> None:
        """Release the graph; the next ``process`` builds it again."""
        self._inputs = []
        self._output = self._graph = None
        self._ports = ()

    def _build(self, ports: tuple[Port, ...]) -> None:
        self.close()
        graph = av.filter.Graph()
        graph.threads = 1
        filters = [graph.add(name, args) if args else graph.add(name) for name, args in self._chain]
        inputs = []
        for number, port in enumerate(ports):
            source = graph.add("buffer", port.arguments(), name=f"in{number}")
            stamp = graph.add("setpts", "N")
            source.link_to(stamp)
            stamp.link_to(filters[0], 0, number)
            inputs.append(source)
        for left, right in pairwise(filters):
            left.link_to(right)
        output = graph.add("buffersink")
        filters[-1].link_to(output)
        graph.configure()
        self._graph, self._inputs, self._output, self._ports = graph, inputs, output, ports
