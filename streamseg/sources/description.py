"""What is known of an open file: the StreamInfo, and the guesses it is made of."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from streamseg.frames import Colour, StreamInfo

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

    from streamseg.sources.opening import Opened
    from streamseg.sources.timeline import Window
    from streamseg.sources.upright import Upright

__all__ = ["describe", "length_s_of", "rate_of", "time_base_of"]

_MAX_RATE = 1000
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


def describe(
    name: str,
    opened: Opened,
    window: Window,
    upright: Upright,
    first: av.VideoFrame,
    *,
    start_s: float | None,
    duration_s: float | None,
) -> StreamInfo:
    """Return what is known of the stream.

    Args:
        name: For messages.
        opened: The open file.
        window: The part of it that is read.
        upright: What the pictures went through; it knows their size and format.
        first: The first picture that comes out.
        start_s: As asked for, in seconds, or None.
        duration_s: As asked for, in seconds, or None.
    """
    video = opened.video
    width, height = upright.size
    rate = rate_of(video)
    length_s = 1 / float(rate or 25) if opened.still else length_s_of(opened)
    count = video.frames or None
    if start_s is not None or duration_s is not None:
        count = None
        if length_s is not None:
            length_s = max(0.0, length_s - (start_s or 0.0))
        if duration_s is not None:
            length_s = min(length_s or duration_s, duration_s)
    if opened.still:
        count = 1
    elif count is None and length_s is not None and rate is not None:
        count = max(1, round(length_s * rate))
    ratio = video.sample_aspect_ratio or video.codec_context.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, 100) < ratio < 100:
        ratio = Fraction(1)
    return StreamInfo(
        name=name,
        width=width,
        height=height,
        pixel_format=upright.pixel_format,
        time_base=window.time_base,
        average_rate=rate,
        live=False,
        frame_count=count,
        duration_s=length_s,
        sample_aspect_ratio=1 / ratio if upright.swapped else ratio,
        colour=_colour(video, first),
        side_streams=tuple(opened.sides),
        metadata=dict(opened.container.metadata),
        # Old files say in a tag, too, what the display matrix says; it has been done.
        video_metadata={key: tag for key, tag in video.metadata.items() if key != "rotate"},
        chapters=tuple(window.chapters(opened.container.chapters())),
        files=opened.files,
    )


def time_base_of(video: VideoStream) -> Fraction:
    """Return the unit of a stream's time stamps in seconds."""
    return video.time_base or Fraction(1, 1_000_000)


def rate_of(video: VideoStream) -> Fraction | None:
    """Return frames per second, from the best of FFmpeg's guesses that is possible at all."""
    for rate in (video.average_rate, video.guessed_rate, video.base_rate):
        if rate and 0 < rate <= _MAX_RATE:
            return rate
    return None


def length_s_of(opened: Opened) -> float | None:
    """Return the video's length in seconds, or the file's where the video's is not known."""
    video = opened.video
    if video.duration:
        return float(video.duration * time_base_of(video))
    stated = _CLOCK.fullmatch(video.metadata.get("DURATION", ""))  # Matroska, for each stream
    if stated:
        return int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3])
    if opened.container.duration:
        return opened.container.duration / 1_000_000
    return None


def _colour(video: VideoStream, first: av.VideoFrame) -> Colour:
    """What the picture says of its colours, and where it is silent, what the stream says."""
    own, stated = Colour.of(first), Colour.of(video.codec_context)
    return replace(
        own,
        space=stated.space if own.space == 2 else own.space,
        range=own.range or stated.range,
        primaries=stated.primaries if own.primaries == 2 else own.primaries,
        transfer=stated.transfer if own.transfer == 2 else own.transfer,
    )
