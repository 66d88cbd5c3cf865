"""Reads a frame's side data without the traps of PyAV 18.1.

``VideoFrame.side_data`` must not be touched on a frame as it was decoded: an entry with metadata of
its own (the ICC profile of a PNG) is freed twice when the container goes, which ends the process,
and one entry of a kind that PyAV has no name for (EXIF) makes all of them unreadable. So the frame
goes through a filter graph that removes every kind that was not asked for, and what is left of the
copy is read.

And a frame whose side data was read refers to it and is referred to by it: its picture stays in
memory until Python looks for such rings, which a process that makes few objects does every few
minutes at best. So they are looked for here.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import av
import av.error
import av.filter

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["safe_side_data"]

# Kinds (enum AVFrameSideDataType of FFmpeg 8) that hold plain numbers and no metadata.
_READABLE = {
    "DISPLAYMATRIX": 6,
    "MASTERING_DISPLAY_METADATA": 11,
    "CONTENT_LIGHT_LEVEL": 14,
}
_KINDS = range(48)  # some more than FFmpeg 8 has


def safe_side_data(video: av.VideoFrame, kinds: Iterable[str] = _READABLE) -> dict[str, bytes]:
    """Return a copy of a frame's side data by kind; empty where it cannot be read.

    Takes about a millisecond: to be called for a first frame, not for each.

    Args:
        video: Is not changed.
        kinds: Names as in ``av.sidedata``: ``DISPLAYMATRIX``, ``MASTERING_DISPLAY_METADATA``,
            ``CONTENT_LIGHT_LEVEL``.
    """
    wanted = {_READABLE[kind] for kind in kinds}
    try:
        graph = av.filter.Graph()
        source = graph.add(
            "buffer",
            f"video_size={video.width}x{video.height}:pix_fmt={video.format.name}:time_base=1/1000:"
            f"colorspace={int(video.colorspace)}:range={int(video.color_range)}",
        )
        others = [kind for kind in _KINDS if kind not in wanted]
        removers = [graph.add("sidedata", f"mode=delete:type={kind}") for kind in others]
        graph.link_nodes(source, *removers, graph.add("buffersink")).configure()
        graph.vpush(video)
        return _read(graph.vpull())
    except (av.error.FFmpegError, ValueError, TypeError, OverflowError):
        return {}  # a surface of a device, a kind of a later FFmpeg: it is not essential
    finally:
        gc.collect(1)  # what is young: takes well under a millisecond


def _read(copy: Any) -> dict[str, bytes]:
    # PyAV types side_data as one entry; it is a mapping of them.
    return {entry.type.name: bytes(entry) for entry in copy.side_data}
