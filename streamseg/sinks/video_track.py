"""VideoTrack: frames of any kind in, encoded packets with the frames' own times out.

Encoder, picture and clock are chosen with the first frame, which alone says what pixel format, size
and colour there are. Whoever makes a file or a stream adds the track to its container and writes
the packets there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av.error
from av.video.frame import PictureType

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.priorities import ordinary_priorities
from streamseg.sinks.encoder import EncoderChoice, choose_encoder, choose_picture
from streamseg.sinks.hdr import add_hdr_options
from streamseg.sinks.pixels import Conform, describe_loss, has_alpha
from streamseg.sinks.remux import STREAM_TAGS, clean_tags
from streamseg.sinks.target import reason
from streamseg.sinks.timing import Clock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

    from streamseg.frames import Frame, StreamInfo
    from streamseg.sinks.container import Container

__all__ = ["Tune", "VideoTrack"]

_COARSE = frozenset("mpeg4 msmpeg4 msmpeg4v2 h263 h263p flv wmv1 wmv2".split())
_FRAME_RATE_LIMIT = 1000

Tune = Callable[[EncoderChoice, Fraction], None]
"""Changes the options of the encoder that was chosen; gets the frames per second, about."""


class VideoTrack:
    """The video stream of one result.

    Args:
        info: The stream that the frames are of.
        container: The kind of result.
        shown: The target, for messages.
        asked: What the user asked of the encoder: encoder, crf, preset, options.
        first: The first frame.
        notices: Gets a line for everything that is not stored as it came.
        tune: Has the last word on the encoder's options.

    Raises:
        SinkOpenError: If it cannot be encoded as asked.
    """

    def __init__(
        self,
        info: StreamInfo,
        container: Container,
        shown: str,
        asked: Mapping[str, Any],
        first: Frame,
        notices: list[str],
        *,
        tune: Tune | None = None,
    ) -> None:
        self._alpha = has_alpha(first.pixel_format)
        choice = choose_encoder(container, shown, alpha=self._alpha, **asked)
        picture, loss = choose_picture(choice, container, first.video, info.colour)
        add_hdr_options(choice.options, choice.name, first.video, picture.colour.transfer)
        notices.extend(choice.notices)
        if words := describe_loss(loss):
            notices.append(
                f"{first.pixel_format} is stored as {picture.pixel_format} by {choice.name}: {words}"
            )
        if picture.pad_right or picture.pad_bottom:
            notices.append(
                f"{choice.name} needs even sizes: {first.width}x{first.height} is stored as "
                f"{picture.width}x{picture.height}, the last column or row repeated"
            )
        self._info, self._container, self._shown = info, container, shown
        self._choice, self._picture = choice, picture
        self._conform = Conform(picture)
        self._first_dts: int | None = None
        self._first = (first.width, first.height, first.pixel_format)
        self.rate = _rate(info, first)
        """Frames per second, about."""
        if tune is not None:
            tune(choice, self.rate)

    def start_clock(
        self, first: Frame, shift_s: Fraction, *, finest: Fraction | None = None
    ) -> Clock:
        """Make and return the clock; to be called once, before ``attach``.

        Args:
            first: The first frame.
            shift_s: Added to all time stamps.
            finest: The shortest tick, in seconds, that the result may count in.
        """
        base, choice = first.time_base, self._choice
        if finest is not None and base < finest:
            base = finest
        counted = None
        rates = [Fraction(r.numerator, r.denominator) for r in choice.codec.frame_rates or ()]
        if rates:
            counted = min(rates, key=lambda offered: abs(offered - self.rate))
        elif choice.name in _COARSE and base.denominator > 0xFFFF:
            counted = self.rate
        constant = not self._container.any_pts
        self.clock = Clock(base, self.rate, counted=counted, shift_s=shift_s, constant=constant)
        return self.clock

    def attach(self, output: OutputContainer) -> None:
        """Add the stream to a container that is not started yet, and open the encoder.

        Raises:
            SinkOpenError: If the encoder refuses.
        """
        info, clock, choice, picture = self._info, self.clock, self._choice, self._picture
        rate = Fraction(1) / clock.encoder_time_base if clock.counted else self.rate
        stream = cast("VideoStream", output.add_stream(choice.name, rate=rate))
        stream.time_base = clock.time_base
        stream.metadata.update(clean_tags(info.video_metadata, STREAM_TAGS))
        context = stream.codec_context
        context.width, context.height = picture.width, picture.height
        context.pix_fmt = picture.pixel_format
        context.time_base = clock.encoder_time_base
        context.sample_aspect_ratio = info.sample_aspect_ratio
        context.color_range = picture.colour.range
        context.colorspace = picture.colour.space
        context.color_primaries = picture.colour.primaries
        context.color_trc = picture.colour.transfer
        # PyAV's default is slices alone, which costs x264 compression for nothing here.
        context.thread_type = "AUTO"
        if choice.qscale is not None:
            context.qscale = True
            context.global_quality = choice.qscale
        if self._container.is_mp4 and choice.codec.canonical_name == "hevc":
            context.codec_tag = "hvc1"  # Apple's players refuse FFmpeg's default, hev1
        context.options = dict(choice.options)
        try:
            with ordinary_priorities():
                context.open()
        except (av.error.FFmpegError, OSError, ValueError) as exc:
            raise SinkOpenError(
                f"cannot write {self._shown}: encoder {choice.name} refuses "
                f"{picture.width}x{picture.height} {picture.pixel_format} with "
                f"{_options_shown(choice.options)} ({reason(exc)}); "
                "try another encoder, size or option"
            ) from exc
        left = [name for name in context.options if name != "bf"]
        if left:
            raise SinkOpenError(
                f"cannot write {self._shown}: encoder {choice.name} has no option "
                f"{', '.join(repr(name) for name in left)}"
            )
        self._stream = stream

    def change(self, frame: Frame) -> str | None:
        """Return a line for a frame of another size or format than the first one."""
        now = (frame.width, frame.height, frame.pixel_format)
        if now == self._first:
            return None
        return (
            f"the pictures change from {self._first[0]}x{self._first[1]} {self._first[2]} "
            f"to {now[0]}x{now[1]} {now[2]}; they are fitted to the first"
        )

    def encode(self, frame: Frame, *, key: bool = False) -> Iterator[Packet[Any]]:
        """Yield the packets that one more frame brings, ready for the container.

        Args:
            frame: Of any size and format; fitted to the first.
            key: Whether the picture must be a keyframe.

        Raises:
            SinkWriteError: If it has an alpha channel and the first one had none.
        """
        if not self._alpha and has_alpha(frame.pixel_format):
            # Without its alpha a cut-out picture shows what was cut out.
            raise SinkWriteError(
                f"cannot write {self._shown}: the pictures have an alpha channel, which there is "
                "no place for; use another effect, such as replace"
            )
        video = self._conform.apply(frame.video)
        self.clock.stamp(frame, video)
        if key:
            video.pict_type = PictureType.I
        for packet in self._stream.encode(video):
            yield self._finish(packet)

    def flush(self) -> Iterator[Packet[Any]]:
        """Yield the packets that the encoder still holds; it takes no frames after that."""
        for packet in self._stream.encode_lazy(None):
            yield self._finish(packet)

    def end_with(self, packet: Packet[Any]) -> None:
        """Give the last packet the duration that ends the track with its last picture.

        The MP4 muxer takes a track's end from the last packet in decoding order. With B-frames
        that is not the last picture, and with a variable rate its own duration ends elsewhere.
        """
        if packet.dts is not None and self._first_dts is not None:
            whole = self.clock.end - (self.clock.first_pts or 0)
            packet.duration = max(1, whole - (packet.dts - self._first_dts))

    def _finish(self, packet: Packet[Any]) -> Packet[Any]:
        self.clock.restore(packet)
        if self._first_dts is None:
            self._first_dts = packet.dts
        packet.stream = self._stream
        return packet


def _rate(info: StreamInfo, first: Frame) -> Fraction:
    rate = info.average_rate
    if rate is None and first.video.duration:
        rate = Fraction(1) / (first.video.duration * first.time_base)
    if rate is None or not 0 < rate <= _FRAME_RATE_LIMIT:
        rate = Fraction(25)
    return rate.limit_denominator(1001)


def _options_shown(options: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items()) or "no options"
