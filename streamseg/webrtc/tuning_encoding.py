"""The sending side of aiortc: encoders for a live call, sound that is passed through.

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
from aiortc.rtcrtpsender import RTCRtpSender
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from streamseg.frames import Colour
from streamseg.webrtc.tuning_private import replace_private

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiortc.rtcdtlstransport import RTCDtlsTransport
    from aiortc.rtcrtpparameters import RTCRtpSendParameters
    from av.video.codeccontext import VideoCodecContext

__all__ = ["AudioPass", "H264Video", "Rates", "Timeline", "TunedSender", "Vp8Video"]

_AUDIO_TIME_BASE = Fraction(1, 48_000)
_KEYFRAME_S = 0.5  # at most one keyframe in this time, however many ask
_SETTLE_S = 3.0  # an encoder that must be made anew for its bitrate is not made anew more often
_FRAME = 3000  # 1/90000 s: a frame at 30 per second


@dataclass(frozen=True, slots=True)
class Rates:
    """Bits per second of an encoder: at its start, and its limits."""

    start: int
    minimum: int
    maximum: int


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

    Attributes:
        frames: Pictures encoded.
        encode_ms: What the last ones took, smoothed; None before the first.
        size: Of the newest.
        keyframes: How many of the pictures were complete in themselves.
    """

    full_range_kept = False

    def __init__(self, rates: Rates, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.frames = 0
        self.keyframes = 0
        self.encode_ms: float | None = None
        self.size: tuple[int, int] | None = None
        self._rates = rates
        self._target = rates.start
        self._clock = clock
        self._timeline = Timeline(_FRAME, 10 * 90_000)
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
        self._target = max(self._rates.minimum, min(bitrate, self._rates.maximum))

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Encode a picture, which is written into: it must be the caller's own reference."""
        started_s = self._clock()
        video = self._prepared(frame)
        pts = self._timeline.map(_pts_90k(video, frame))
        context = self._context
        if context is None or (video.width, video.height) != (context.width, context.height):
            context = self._open(video, started_s)
        elif not self._rate_followed(context, started_s):
            context = self._open(video, started_s)
        self._key_wanted |= force_keyframe
        video.pict_type = PictureType.NONE
        if self._key_wanted and started_s - self._key_s >= _KEYFRAME_S:
            video.pict_type = PictureType.I
        video.pts, video.time_base = pts, VIDEO_TIME_BASE
        packets = context.encode(video)
        data = b"".join(bytes(packet) for packet in packets)
        if any(packet.is_keyframe for packet in packets):
            self._key_s, self._key_wanted = started_s, False
            self.keyframes += 1
        payloads = self._payloads(data)
        self.frames += 1
        self.size = (video.width, video.height)
        took_ms = 1000 * (self._clock() - started_s)
        before = self.encode_ms
        self.encode_ms = took_ms if before is None else before + 0.1 * (took_ms - before)
        return payloads, pts

    def pack(self, packet: av.Packet[Any]) -> tuple[list[bytes], int]:
        """Send a packet that is encoded already."""
        assert packet.pts is not None
        pts = convert_timebase(packet.pts, packet.time_base, VIDEO_TIME_BASE)
        return self._payloads(bytes(packet)), self._timeline.map(pts)

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


class H264Video(_Video):
    """x264, superfast and without delay, at a constant bitrate."""

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


class Vp8Video(_Video):
    """libvpx, as fast as it goes, at a constant bitrate."""

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


class AudioPass(Encoder):
    """Sends encoded sound as it is."""

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Not for samples: they would have to be encoded."""
        raise NotImplementedError("sound is passed through as packets")

    def pack(self, packet: av.Packet[Any]) -> tuple[list[bytes], int]:
        """Return the packet's bytes, and its time stamp in units of 1/48000 s."""
        assert packet.pts is not None
        return [bytes(packet)], convert_timebase(packet.pts, packet.time_base, _AUDIO_TIME_BASE)


class TunedSender(RTCRtpSender):
    """A sender with our own encoders.

    Attributes:
        video: The encoder, once video is being sent.
    """

    def __init__(self, kind: str, transport: RTCDtlsTransport, rates: Rates) -> None:
        super().__init__(kind, transport)
        self.video: H264Video | Vp8Video | None = None
        self._rates = rates

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        """Start sending with the codec that was agreed on."""
        encoder: Encoder
        if self.kind == "audio":
            encoder = AudioPass()
        elif self.video is not None:
            encoder = self.video
        else:
            h264 = parameters.codecs[0].name.upper() == "H264"
            encoder = self.video = H264Video(self._rates) if h264 else Vp8Video(self._rates)
        replace_private(self, RTCRtpSender, "encoder", encoder)
        await super().send(parameters)


def _pts_90k(video: av.VideoFrame, original: av.VideoFrame) -> int:
    pts, base = original.pts, original.time_base
    if pts is None or base is None:
        return int(time.monotonic() * 90_000)
    return convert_timebase(pts, base, VIDEO_TIME_BASE)
