"""Encoders for a live call, in place of aiortc's.

aiortc's encoders take 20 ms for a 720p picture (x264's preset medium), are limited to 3 and 1.5
Mbit/s, make a keyframe for every change of the bitrate and for every request of a viewer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.mediastreams import VIDEO_TIME_BASE, convert_timebase
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from streamseg.frames import Colour

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.video.codeccontext import VideoCodecContext

__all__ = [
    "KEYFRAME_S",
    "EncodedPicture",
    "H264Video",
    "Rates",
    "Timeline",
    "Vp8Video",
    "make_encoder",
]

_SETTLE_S = 3.0  # an encoder that must be made anew for its bitrate is not made anew more often
_FRAME = 3000  # 1/90000 s: a frame at 30 per second

KEYFRAME_S = 0.5
"""An encoder makes at most one keyframe in this time, however many ask; seconds."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Bits per second of an encoder: at its start, and its limits."""

    start: int
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPicture:
    """What an encoder made of a picture, for one receiver or for many.

    Attributes:
        data: The bit stream; empty where the encoder left the picture out.
        pts: Time stamp of the picture itself, in units of 1/90000 s.
        keyframe: Whether decoding can begin with it.
        size: Width and height in pixels.
        payloads: The same in pieces of a packet each, where those are alike for all receivers.
    """

    data: bytes
    pts: int
    keyframe: bool
    size: tuple[int, int]
    payloads: tuple[bytes, ...] = ()


class Timeline:
    """Time stamps that only grow, whatever comes in.

    Args:
        step: What a jump is replaced with.
        longest: A step of more than this is a jump, as is one back.
    """

    def __init__(self, step: int, longest: int) -> None:
        self._step = step
        self._longest = longest
        self._raw: int | None = None
        self._value = 0

    def map(self, raw: int) -> int:
        """Return where this time stamp is on the line; the first is at 0."""
        if self._raw is not None:
            step = raw - self._raw
            self._value += step if 0 < step <= self._longest else self._step
        self._raw = raw
        return self._value


class _Video(Encoder):
    """What both encoders have in common. ``encode`` runs in a thread, the rest on the loop.

    Where the pictures are encoded elsewhere, for several receivers, only ``pack`` is used.

    Attributes:
        codec: ``H264`` or ``VP8``.
        rates: Limits of the bitrate.
        on_bitrate: Called on the loop with what the receiver says it can take, within the limits.
        on_keyframe: Called on the loop when the receiver asks for a keyframe.
        frames: Pictures sent.
        left_out: Pictures that were not, to stay within the bitrate.
        failed: Pictures that could not be encoded.
        encode_ms: What the last ones took, smoothed; None before the first.
        size: Of the newest.
        keyframes: How many of the pictures were complete in themselves.
    """

    codec = ""
    full_range_kept = False

    def __init__(self, rates: Rates, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.frames = 0
        self.left_out = 0
        self.failed = 0
        self.keyframes = 0
        self.encode_ms: float | None = None
        self.size: tuple[int, int] | None = None
        self.rates = rates
        self.on_bitrate: Callable[[int], None] | None = None
        self.on_keyframe: Callable[[], None] | None = None
        self._target = rates.start
        self._clock = clock
        self._timeline = Timeline(_FRAME, 10 * 90_000)
        self._sent = Timeline(_FRAME, 10 * 90_000)
        self._reformatter = VideoReformatter()
        self._context: VideoCodecContext | None = None
        self._made_s = 0.0
        self._made_for = 0  # bits/s that the context was made with
        self._key_s = -1e9
        self._key_wanted = False

    @property
    def target_bitrate(self) -> int:
        """Bits per second; set by aiortc to what the receiver says it can take."""
        return self._target

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._target = max(self.rates.minimum, min(bitrate, self.rates.maximum))
        if self.on_bitrate is not None:
            self.on_bitrate(self._target)

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Encode a picture, which is written into: it must be the caller's own reference."""
        return self.pack(self.compress(frame, force_keyframe))

    def compress(self, frame: Any, force_keyframe: bool = False) -> EncodedPicture:
        """Encode a picture, as ``encode`` does, for whoever packs it."""
        started_s = self._clock()
        video = self._prepared(frame)
        pts = _pts_90k(video, frame)
        context = self._context
        if context is None or (video.width, video.height) != (context.width, context.height):
            context = self._open(video, started_s)
        elif not self._rate_followed(context, started_s):
            context = self._open(video, started_s)
        self._key_wanted |= force_keyframe
        video.pict_type = PictureType.NONE
        if self._key_wanted and started_s - self._key_s >= KEYFRAME_S:
            video.pict_type = PictureType.I
        video.pts, video.time_base = self._timeline.map(pts), VIDEO_TIME_BASE
        packets = context.encode(video)
        data = b"".join(bytes(packet) for packet in packets)
        keyframe = any(packet.is_keyframe for packet in packets)
        if keyframe:
            self._key_s, self._key_wanted = started_s, False
            self.keyframes += 1
        size = (video.width, video.height)
        picture = EncodedPicture(data, pts, keyframe, size, self._alike(data))
        took_ms = 1000 * (self._clock() - started_s)
        before = self.encode_ms
        self.encode_ms = took_ms if before is None else before + 0.1 * (took_ms - before)
        return picture

    def reset(self) -> None:
        """Begin anew with the next picture, after an error."""
        self._context = None

    def pack(self, packet: Any) -> tuple[list[bytes], int]:
        """Return the payloads of an `EncodedPicture`, and its time stamp for this receiver.

        There are none where the encoder left the picture out.
        """
        assert isinstance(packet, EncodedPicture)
        self.size = packet.size
        pts = self._sent.map(packet.pts)
        if not packet.data:
            self.left_out += 1
            return [], pts
        self.frames += 1
        return list(packet.payloads) or self._payloads(packet.data), pts

    def _prepared(self, frame: Any) -> av.VideoFrame:
        """Return the picture as 4:2:0 of even size and limited range, as every receiver takes it."""
        assert isinstance(frame, av.VideoFrame)
        width, height = max(2, frame.width & ~1), max(2, frame.height & ~1)
        colour = Colour.of(frame)
        name = frame.format.name
        full = name.startswith("yuvj") or colour.range == 2 or frame.format.is_rgb
        wrong_matrix = not self.full_range_kept and colour.space in (1, 9)
        same_size = (width, height) == (frame.width, frame.height)
        if name == "yuv420p" and same_size and not full and not wrong_matrix:
            return frame
        known = colour.resolved(frame.height, name)
        source = {1: Colorspace.ITU709, 9: Colorspace.ITU709}.get(known.space, Colorspace.ITU601)
        target = source if self.full_range_kept else Colorspace.ITU601
        if frame.format.is_rgb:
            source = target = Colorspace.ITU601
        return self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="yuv420p",
            src_colorspace=source,
            dst_colorspace=target,
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            dst_color_range=ColorRange.MPEG,
        )

    def _open(self, video: av.VideoFrame, now: float) -> VideoCodecContext:
        self._made_s, self._made_for = now, self._target
        context = self._make(video, self._target)
        context.width, context.height = video.width, video.height
        context.pix_fmt = "yuv420p"
        context.bit_rate = self._target
        context.time_base = VIDEO_TIME_BASE
        context.framerate = Fraction(30)
        context.gop_size = 3000  # keyframes come when they are asked for
        self._context = context
        return context

    def _make(self, video: av.VideoFrame, rate: int) -> VideoCodecContext:
        raise NotImplementedError

    def _rate_followed(self, context: VideoCodecContext, now: float) -> bool:
        """Whether the encoder goes on with the bitrate it should have."""
        raise NotImplementedError

    def _payloads(self, data: bytes) -> list[bytes]:
        raise NotImplementedError

    def _alike(self, data: bytes) -> tuple[bytes, ...]:
        """Return the payloads if they are the same for all receivers."""
        return ()


class H264Video(_Video):
    """x264, superfast and without delay, at a constant bitrate."""

    codec = "H264"
    full_range_kept = True  # it says in the stream which matrix it has

    def _make(self, video: av.VideoFrame, rate: int) -> VideoCodecContext:
        context = av.CodecContext.create("libx264", "w")
        assert isinstance(context, av.VideoCodecContext)
        context.profile = "Baseline"
        context.options = {
            "preset": "superfast",
            "tune": "zerolatency",
            "maxrate": str(rate),
            "bufsize": str(rate // 2),
        }
        context.thread_count = 1 if video.width * video.height <= 1280 * 720 else 2
        return context

    def _rate_followed(self, context: VideoCodecContext, now: float) -> bool:
        # x264 takes a lower bitrate while it runs, without a keyframe, but none above the one it
        # was made with.
        if self._target > 1.25 * self._made_for and now - self._made_s > _SETTLE_S:
            return False
        rate = min(self._target, self._made_for)
        if abs(rate - (context.bit_rate or 0)) > 0.05 * rate:
            context.bit_rate = rate
        return True

    def _payloads(self, data: bytes) -> list[bytes]:
        return H264Encoder._packetize(H264Encoder._split_bitstream(data))

    def _alike(self, data: bytes) -> tuple[bytes, ...]:
        return tuple(self._payloads(data))


class Vp8Video(_Video):
    """libvpx, as fast as it goes, at a constant bitrate."""

    codec = "VP8"

    def __init__(self, rates: Rates, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(rates, clock=clock)
        self._picture_id = Vp8Encoder().picture_id

    def _make(self, video: av.VideoFrame, rate: int) -> VideoCodecContext:
        context = av.CodecContext.create("libvpx", "w")
        assert isinstance(context, av.VideoCodecContext)
        context.qmin, context.qmax = 2, 56
        context.options = {
            "deadline": "realtime",
            "cpu-used": "-12",
            "lag-in-frames": "0",
            "noise-sensitivity": "0",
            "bufsize": str(rate),
            "minrate": str(rate),
            "maxrate": str(rate),
            "overshoot-pct": "15",
            "undershoot-pct": "100",
            "static-thresh": "1",
            "drop-threshold": "30",  # rather no picture than one that comes late
        }
        context.thread_count = 1 if video.width * video.height <= 1280 * 720 else 2
        return context

    def _rate_followed(self, context: VideoCodecContext, now: float) -> bool:
        # Through FFmpeg libvpx cannot change its bitrate: it is made anew, with a keyframe, so only
        # for a change that is worth one.
        change = self._target / self._made_for
        if now - self._made_s < _SETTLE_S:
            return change > 0.5
        return 0.7 < change < 1.4

    def _payloads(self, data: bytes) -> list[bytes]:
        payloads = Vp8Encoder._packetize(data, self._picture_id)
        self._picture_id = (self._picture_id + 1) % (1 << 15)
        return payloads


def make_encoder(codec: str, rates: Rates) -> H264Video | Vp8Video:
    """Return an encoder of ``H264`` or ``VP8``."""
    return H264Video(rates) if codec.upper() == "H264" else Vp8Video(rates)


def _pts_90k(video: av.VideoFrame, original: av.VideoFrame) -> int:
    pts, base = original.pts, original.time_base
    if pts is None or base is None:
        return int(time.monotonic() * 90_000)
    return convert_timebase(pts, base, VIDEO_TIME_BASE)
