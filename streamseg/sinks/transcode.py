"""Audio and text subtitles that a container cannot hold as they are: decoded and encoded again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import av
import av.error
from av.filter import Graph
from av.subtitles.subtitle import SubtitleSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.filter.context import FilterContext
    from av.packet import Packet
    from av.stream import Stream
    from av.subtitles.stream import SubtitleStream

__all__ = ["AudioTranscoder", "SubtitleConverter"]

_BITS_A_CHANNEL = 96_000  # a second: transparent for AAC and Opus with most material
# PCM says how many channels it has and often not which; these are FFmpeg's own defaults.
_USUAL_LAYOUTS = {
    1: "mono",
    2: "stereo",
    3: "2.1",
    4: "4.0",
    5: "5.0",
    6: "5.1",
    7: "6.1",
    8: "7.1",
}


class AudioTranscoder:
    """Decodes one audio stream and encodes it with another codec, in time with the rest.

    Gaps in the source are filled with silence and overlaps cut (``aresample=async``), because an
    encoder counts samples and would otherwise move everything after a gap.

    Args:
        output: Where the new stream is added, before its header is written.
        template: The source's stream, a copy that belongs to us.
        encoder: FFmpeg's name of the encoder.

    Raises:
        av.error.FFmpegError: If the encoder refuses; nothing was added then.
    """

    def __init__(self, output: OutputContainer, template: AudioStream, encoder: str) -> None:
        self.decoder = template.codec_context
        if encoder == "libmp3lame" and self.decoder.layout.nb_channels > 2:
            encoder = "ac3"
        codec = av.Codec(encoder, "w")
        rate = self.decoder.sample_rate or 48_000
        if codec.audio_rates and rate not in codec.audio_rates:
            higher = [offered for offered in codec.audio_rates if offered >= rate]
            rate = min(higher) if higher else max(codec.audio_rates)
        # First apart from the container: a stream cannot be taken out of that again.
        trial = cast("AudioCodecContext", av.CodecContext.create(encoder, "w"))
        trial.format = codec.audio_formats[0] if codec.audio_formats else self.decoder.format
        trial.sample_rate = rate
        self._open(trial)
        self.stream = cast("AudioStream", output.add_stream(encoder, rate=rate))
        self._open(self.stream.codec_context)
        self.damaged = 0
        self._graph: tuple[FilterContext, FilterContext] | None = None
        self._next_pts: int | None = None

    def _open(self, context: AudioCodecContext) -> None:
        layout = self.decoder.layout
        specified = not layout.name.endswith(" channels")
        context.layout = (
            layout.name if specified else _USUAL_LAYOUTS.get(layout.nb_channels, layout.name)
        )
        if context.codec.name in {"aac", "libopus", "libmp3lame", "ac3"}:
            context.bit_rate = _BITS_A_CHANNEL * layout.nb_channels
        context.open()

    def encode(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        """Yield new packets, in the stream's own time base, for one packet; None flushes.

        A packet that cannot be decoded is counted in ``damaged``; the gap that it leaves is filled.
        """
        for frame in self._decode(packet):
            try:
                source, sink = self._resampler(frame)
                source.push(frame)
            except (av.error.FFmpegError, ValueError):
                self.damaged += 1  # a damaged header made it samples of another kind
                continue
            yield from self._pull(sink)
        if packet is None:
            if self._graph is not None:
                self._graph[0].push(None)
                yield from self._pull(self._graph[1])
            yield from self.stream.codec_context.encode(None)

    def _decode(self, packet: Packet[Any] | None) -> list[Any]:
        try:
            decoded = self.decoder.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            # Which error it is depends on the codec: damaged AAC is even "Operation not permitted".
            self.damaged += 1
            return []
        frames = []
        for frame in decoded:
            if not frame.samples:
                continue
            # A decoder that lost its way gives samples without a time: they follow the last ones.
            base = frame.time_base
            if frame.pts is None:
                start = None if packet is None else packet.pts
                if self._next_pts is not None:
                    start = self._next_pts
                elif start is not None and packet is not None and packet.time_base and base:
                    start = round(start * packet.time_base / base)
                frame.pts = start or 0
            if base and frame.sample_rate:
                self._next_pts = frame.pts + round(frame.samples / (frame.sample_rate * base))
            frames.append(frame)
        return frames

    def _pull(self, sink: FilterContext) -> Iterator[Packet[Any]]:
        while True:
            try:
                frame: Any = sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield from self.stream.codec_context.encode(frame)

    def _resampler(self, frame: Any) -> tuple[FilterContext, FilterContext]:
        if self._graph is None:
            context = self.stream.codec_context
            graph = Graph()
            source = graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=frame.layout.name,
                time_base=frame.time_base,
            )
            resample = graph.add("aresample", f"{context.sample_rate}:async=1")
            form = graph.add(
                "aformat",
                f"sample_fmts={context.format.name}:channel_layouts={context.layout.name}",
            )
            sink = graph.add("abuffersink")
            graph.link_nodes(source, resample, form, sink).configure()
            self._keep, self._graph = graph, (source, sink)
        return self._graph


class SubtitleConverter:
    """Turns text subtitles into another text format.

    Args:
        output: Where the new stream is added, before its header is written.
        template: The source's stream, a copy that belongs to us.
        encoder: FFmpeg's name of the encoder.
    """

    def __init__(self, output: OutputContainer, template: SubtitleStream, encoder: str) -> None:
        self.decoder = template.codec_context
        self.damaged = 0
        self.decoder.open(strict=False)  # makes the ASS header that all text encoders start from
        self.stream = cast("SubtitleStream", output.add_stream(encoder))
        self.stream.codec_context.subtitle_header = self.decoder.subtitle_header

    def encode(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        """Yield the packet in the new format, in the time base of the old; None flushes nothing.

        One that cannot be converted is counted in ``damaged``.
        """
        if packet is None:
            return
        try:
            converted = self._convert(packet)
        except (av.error.FFmpegError, ValueError):
            self.damaged += 1
            return
        if converted is not None:
            converted.pts = converted.dts = packet.pts if packet.pts is not None else packet.dts
            converted.duration = packet.duration or 0
            converted.time_base = packet.time_base
            yield converted

    def _convert(self, packet: Packet[Any]) -> Packet[Any] | None:
        decoded = self.decoder.decode2(packet)
        if decoded is None:
            return None
        # Several boxes of one moment become lines of one: containers refuse two at the same time.
        lines: list[bytes] = [text for r in decoded.rects if (text := getattr(r, "ass", b""))]
        if not lines:
            return None
        text = lines[0] + b"".join(b"\\N" + line.split(b",", 8)[-1] for line in lines[1:])
        return self.stream.codec_context.encode_subtitle(SubtitleSet.create(text, 0, 0))


def is_text(stream: Stream) -> bool:
    """Return whether these are subtitles made of text."""
    context = stream.codec_context
    return context is not None and bool(context.codec.text_sub)
