"""What fits where: file extensions, their containers, and which codecs each can hold.

FFmpeg is asked (``avformat_query_codec``) wherever its answer can be trusted. It cannot be for
MPEG-TS, which has no table of codecs and says "maybe" to all, and for AVI, whose table holds tags
that hardly any player knows: for these the sets are written out here. MOV and FLV have tags for
codecs that their muxers then refuse; these are listed too.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import av
import av.error

from streamseg.errors import SinkOpenError
from streamseg.sinks.target import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction

__all__ = [
    "EXTENSIONS",
    "PICTURES",
    "Container",
    "can_hold",
    "canonical_codec",
    "container_for",
    "mp4_time_scale",
]


@dataclass(frozen=True, slots=True)
class Container:
    """One kind of file.

    Attributes:
        format: FFmpeg's name of the muxer.
        encoder: The video encoder that is used when nobody asks for another.
        alpha: (encoder, pixel format) for pictures with alpha, None where it cannot hold them.
        audio: The encoder for audio that it cannot hold; None where it holds no audio at all.
        subtitles: The encoder for text subtitles that it cannot hold, None without subtitles.
        attachments: Whether it holds fonts and other files.
        chapters: Whether it holds chapters.
        any_pts: False where pictures only have a number and a constant rate (AVI).
        reorders: False where B-frames would shift or lose time stamps.
        exact_packets: Whether side packets come back one for one.
        only: The codecs that it may hold, by canonical name; None to ask FFmpeg.
        needs_headers: Whether a stream must have its codec's headers apart from its packets.
        refused: Codecs that FFmpeg says it holds, but then refuses when the header is written.
    """

    format: str
    encoder: str = "libx264"
    alpha: tuple[str, str] | None = None
    audio: str | None = "aac"
    subtitles: str | None = None
    attachments: bool = False
    chapters: bool = False
    any_pts: bool = True
    reorders: bool = True
    exact_packets: bool = True
    only: frozenset[str] | None = None
    refused: frozenset[str] = frozenset()
    needs_headers: bool = False

    @property
    def is_mp4(self) -> bool:
        """Whether this is of the ISO base media family: edit lists, time scales, faststart."""
        return self.format in {"mp4", "mov"}


_MP4 = Container("mp4", subtitles="mov_text", chapters=True)
_TS = Container(
    "mpegts",
    exact_packets=False,
    only=frozenset(
        "h264 hevc mpeg1video mpeg2video mpeg4 vvc "
        "aac mp2 mp3 ac3 eac3 dts opus truehd dvb_subtitle dvb_teletext".split()
    ),
)

EXTENSIONS: dict[str, Container] = {
    "mp4": _MP4,
    "m4v": _MP4,
    "mov": Container(
        "mov",
        alpha=("prores_ks", "yuva444p10le"),
        subtitles="mov_text",
        chapters=True,
        refused=frozenset("opus flac vp8 vp9 av1 truehd".split()),
    ),
    "mkv": Container(
        "matroska",
        alpha=("ffv1", ""),
        audio="flac",
        subtitles="ass",
        attachments=True,
        chapters=True,
    ),
    "webm": Container(
        "webm",
        encoder="libvpx-vp9",
        alpha=("libvpx-vp9", "yuva420p"),
        audio="libopus",
        subtitles="webvtt",
        chapters=True,
    ),
    "avi": Container(
        "avi",
        # H.264 would come back late: AVI keeps no presentation times and readers guess a delay.
        encoder="mpeg4",
        audio="libmp3lame",
        any_pts=False,
        reorders=False,
        exact_packets=False,
        only=frozenset(
            "h264 mpeg4 mpeg2video mpeg1video mjpeg ffv1 huffyuv ffvhuff utvideo rawvideo png "
            "msmpeg4v2 msmpeg4v3 dvvideo h263 magicyuv "
            "mp3 mp2 ac3 aac pcm_u8 pcm_s16le pcm_mulaw pcm_alaw adpcm_ms adpcm_ima_wav".split()
        ),
    ),
    "ts": _TS,
    "mts": _TS,
    "m2ts": _TS,
    "flv": Container(
        "flv",
        reorders=False,
        exact_packets=False,
        refused=frozenset("mpeg4 pcm_s16le pcm_mulaw pcm_alaw".split()),
    ),
    "gif": Container("gif", encoder="gif", audio=None, exact_packets=False),
}
"""By file extension, in lower case and without the dot."""

PICTURES = ("png", "jpg", "jpeg")
"""Extensions of single pictures and numbered sequences."""


def container_for(path: str | os.PathLike[str]) -> Container:
    """Return the kind of file that a name asks for.

    Raises:
        SinkOpenError: If its extension is none that can be written.
    """
    extension = os.path.splitext(path)[1].lower().removeprefix(".")
    container = EXTENSIONS.get(extension)
    if container is None:
        known = ", ".join(f".{name}" for name in (*EXTENSIONS, *PICTURES))
        what = (
            f"has the unknown extension '.{printable(extension)}'"
            if extension
            else "has no extension"
        )
        raise SinkOpenError(f"cannot write {printable(path)}: the name {what}; these work: {known}")
    return container


def can_hold(container: Container, codec: str) -> bool:
    """Return whether a container holds a codec.

    Args:
        container: The kind of file.
        codec: FFmpeg's name of a codec, or of an encoder or decoder of it.
    """
    canonical = canonical_codec(codec)
    if container.only is not None:
        return canonical in container.only
    if canonical in container.refused:
        return False
    supported = _supported(container.format)
    return codec in supported or canonical in supported


def mp4_time_scale(time_base: Fraction, sample_rates: Iterable[int]) -> str:
    """Return the time scale of an MP4 file that all its tracks' times fit into.

    Edit lists count in it. By default it is milliseconds: a start at 7.8125 ms would come back as
    7 ms.

    Args:
        time_base: Of the video.
        sample_rates: Of the audio streams, per second.
    """
    scale = math.lcm(time_base.denominator, *sample_rates)
    return str(min(scale if scale <= 1 << 26 else time_base.denominator, 2**31 - 1))


@lru_cache(maxsize=256)
def canonical_codec(name: str) -> str:
    """Return the codec's own name for the name of an encoder or decoder: libx264 -> h264."""
    for mode in ("r", "w"):
        try:
            return av.Codec(name, mode).canonical_name
        except (av.error.FFmpegError, ValueError):
            continue
    return name


@lru_cache(maxsize=32)
def _supported(format_name: str) -> frozenset[str]:
    """All encoders and decoders whose codec FFmpeg says the muxer holds, and these codecs."""
    with av.open(os.devnull, "w", format=format_name) as output:
        names: set[str] = output.supported_codecs
    return frozenset(names) | {canonical_codec(name) for name in names}
