"""Further references to a picture: another ``av.VideoFrame`` of the same memory.

Several parts of FFmpeg write into the frame that they are given, though not into its samples:
``VideoFrame.reformat`` swaps colour tags while it runs, encoders set time stamps. Whoever needs that
takes a reference of its own: 6 microseconds, no copy of samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
from av.filter import Graph

from streamseg.frames import Colour

if TYPE_CHECKING:
    from av.filter.context import FilterContext

__all__ = ["References"]


class References:
    """Makes references to pictures. Not to be used by two threads at once."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        # A graph must outlive its contexts.
        self._ends: tuple[Graph, FilterContext, FilterContext] | None = None

    def of(self, video: av.VideoFrame) -> av.VideoFrame:
        """Return another frame with the same samples and tags, and its own time stamps."""
        colour = Colour.of(video)
        key = (video.width, video.height, video.format.name, colour)
        if self._ends is None or self._key != key:
            self._key, self._ends = key, self._build(video, colour)
        _, source, sink = self._ends
        source.push(video)
        result = sink.pull()
        assert isinstance(result, av.VideoFrame)
        result.pts, result.time_base = video.pts, video.time_base
        return result

    @staticmethod
    def _build(video: av.VideoFrame, colour: Colour) -> tuple[Graph, FilterContext, FilterContext]:
        graph = Graph()
        graph.threads = 1
        name = video.format.name
        space = colour.space if 0 <= colour.space <= 14 and colour.space != 3 else 2
        if space == 0 and not video.format.is_rgb:
            space = 2
        source = graph.add(
            "buffer",
            f"video_size={video.width}x{video.height}:pix_fmt={name}:time_base=1/1:"
            f"pixel_aspect=1/1:colorspace={space}:range={colour.range}",
        )
        sink = graph.add("buffersink")
        source.link_to(sink)
        graph.configure()
        return graph, source, sink
