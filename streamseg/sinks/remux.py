"""Side streams: audio, subtitles, attachments and chapters, carried over as they are if at all so.

The source's streams die with the source, and PyAV does not guard them: reading one after its
container closed crashes. So their parameters are copied when the sink opens, into a container that
is never written. Packets may go to other sinks too, and muxing writes into a packet, so each is
muxed as a new packet that refers to the same bytes.
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error
from av.bitstream import BitStreamFilterContext

from streamseg.sinks.container import Container, can_hold, canonical_codec
from streamseg.sinks.muxed_file import Stopped
from streamseg.sinks.target import printable
from streamseg.sinks.transcode import AudioTranscoder, SubtitleConverter, is_text

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream

__all__ = ["STREAM_TAGS", "SideStreams", "clean_tags", "reference", "shifted_chapters"]

# Written by muxers of their own files; wrong in ours.
_STALE_TAGS = ("_STATISTICS", "BPS", "NUMBER_OF_", "DURATION", "DURATION-")
_CONTAINER_TAGS = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "timecode"}
)
STREAM_TAGS = frozenset({"encoder", "vendor_id", "rotate", "timecode"})

# QuickTime numbers its languages; FFmpeg knows each number by one of two ISO 639-2 codes only.
_QUICKTIME_LANGUAGES = {
    "fre": "fra",
    "deu": "ger",
    "nld": "dut",
    "ell": "gre",
    "isl": "ice",
    "zho": "chi",
    "swe": "sve",
}


class _Track:
    """One stream of the source on its way into the file."""

    def __init__(self, template: Stream, encoder: str | None, tags: Mapping[str, str]) -> None:
        self.template = template
        self.encoder = encoder
        self.tags = tags
        self.disposition = 0
        self.converter: AudioTranscoder | SubtitleConverter | None = None
        self.stream: Stream | None = None
        context = template.codec_context
        self.is_mov_text = context is not None and canonical_codec(context.name) == "mov_text"
        self.last_dts: int | None = None
        self.written = 0
        self.unwrap: BitStreamFilterContext | None = None
        self.damaged = 0


class SideStreams:
    """The side streams of one result.

    Args:
        streams: The source's, open now.
        container: The kind of file that they go to.
        audio: False leaves out all audio.
        chapters: Whether the source has chapters.
        notices: Gets a line for everything that is not carried over untouched.
        stopped: Once set, converting ends with ``Stopped`` at the next packet.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        container: Container,
        *,
        audio: bool,
        chapters: bool,
        notices: list[str],
        stopped: threading.Event,
    ) -> None:
        self._container = container
        self._notices = notices
        self._stopped = stopped
        self._shelf = av.open(os.devnull, "w", format="null")
        self._tracks: dict[int, _Track] = {}
        self._attachments: list[tuple[str, str, bytes]] = []
        self._mux: Callable[[Packet[Any]], None] | None = None
        self._shift = Fraction(0)
        self.repaired = 0
        for stream in streams:
            self._plan(stream, audio, chapters)

    def fork(self) -> SideStreams:
        """Return the same plan for another result; the source may be gone by now.

        Decoders are not shared: two results may be written at the same time.
        """
        other = SideStreams(
            (),
            self._container,
            audio=True,
            chapters=False,
            notices=self._notices,
            stopped=self._stopped,
        )
        for index, track in self._tracks.items():
            template = other._shelf.add_stream_from_template(track.template, opaque=True)
            other._tracks[index] = _Track(template, track.encoder, track.tags)
            other._tracks[index].disposition = track.disposition
            context = template.codec_context
            if (
                self._container.is_mp4
                and track.encoder is None
                and context is not None
                and canonical_codec(context.name) == "aac"
                and not context.extradata
            ):
                # The muxer does this by itself, but not in fragments.
                other._tracks[index].unwrap = BitStreamFilterContext("aac_adtstoasc", template)
        other._attachments = self._attachments
        return other

    def carries(self, packet: Packet[Any]) -> bool:
        """Return whether the packet is of a stream that is carried over."""
        return packet.stream is not None and packet.stream_index in self._tracks

    def _plan(self, stream: Stream, audio: bool, chapters: bool) -> None:
        kind, codec = stream.type, stream.codec_context
        name = codec.name if codec is not None else (getattr(stream, "name", None) or "unknown")
        label = _label(stream, canonical_codec(name) if codec is not None else name)
        if kind == "attachment":
            if self._container.attachments:
                tags = dict(stream.metadata)
                file_name = tags.get("filename") or f"attachment-{stream.index}"
                mime = tags.get("mimetype") or "application/octet-stream"
                self._attachments.append((file_name, mime, stream.data))  # type: ignore[attr-defined]
            else:
                self._notices.append(
                    f"{label} is left out: {self._container.format} holds no files"
                )
            return
        if kind == "audio" and not audio:
            return
        if kind == "data" and chapters and name == "bin_data":
            return  # MP4 keeps its chapters as a track of text too; they are carried over as such
        if kind not in {"audio", "subtitle"} or codec is None:
            self._notices.append(f"{label} is left out: it cannot be carried over")
            return
        encoder: str | None = None
        bare = canonical_codec(name) == "aac" and not codec.extradata
        headless = bare and self._container.needs_headers
        if headless or not can_hold(self._container, codec.name):
            encoder = self._container.audio if kind == "audio" else self._container.subtitles
            if encoder is None or (kind == "subtitle" and not is_text(stream)):
                self._notices.append(
                    f"{label} is left out: {self._container.format} cannot hold it"
                )
                return
        template = self._shelf.add_stream_from_template(stream, opaque=True)
        track = _Track(template, encoder, clean_tags(stream.metadata, STREAM_TAGS))
        track.disposition = int(stream.disposition)
        self._tracks[stream.index] = track
        if encoder is not None:
            what = "AAC without its header" if headless else canonical_codec(codec.name)
            self._notices.append(
                f"{label} is converted to {canonical_codec(encoder)}: "
                f"{self._container.format} does not hold {what}"
            )

    @property
    def sample_rates(self) -> list[int]:
        """Ticks per second of the audio streams, for a time scale that all fit into."""
        tracks = [t.template for t in self._tracks.values() if t.template.type == "audio"]
        return [int(getattr(t.codec_context, "sample_rate", 0) or 48_000) for t in tracks]

    @property
    def indices(self) -> dict[int, int]:
        """Number of the stream in the result -> packets that it must hold at least."""
        return {t.stream.index: t.written for t in self._tracks.values() if t.stream is not None}

    def attach(
        self,
        output: OutputContainer,
        shift_s: Fraction,
        *,
        mux: Callable[[Packet[Any]], None] | None = None,
    ) -> None:
        """Add the streams to a container that is not started yet.

        Args:
            output: With the video stream already in it.
            shift_s: Added to all time stamps.
            mux: Gets the packets; the container if None.
        """
        self._mux = output.mux_one if mux is None else mux
        self._shift = shift_s
        for index, track in list(self._tracks.items()):
            template: Any = track.template
            try:
                if track.encoder is None:
                    track.stream = output.add_stream_from_template(template, opaque=True)
                elif template.type == "audio":
                    track.converter = AudioTranscoder(output, template, track.encoder)
                    track.stream = track.converter.stream
                else:
                    track.converter = SubtitleConverter(output, template, track.encoder)
                    track.stream = track.converter.stream
            except (av.error.FFmpegError, OSError, ValueError) as exc:
                codec = canonical_codec(template.codec_context.name)
                self._notices.append(
                    f"{template.type} stream ({codec}) is left out: it cannot be converted ({exc})"
                )
                del self._tracks[index]
                continue
            tags = dict(track.tags)
            if self._container.format == "mov" and "language" in tags:
                tags["language"] = _QUICKTIME_LANGUAGES.get(tags["language"], tags["language"])
            track.stream.metadata.update(tags)
            track.stream.disposition = track.disposition
        for file_name, mime, data in self._attachments:
            output.add_attachment(file_name, mime, data)

    def move(self, shift_s: Fraction) -> None:
        """Change what is added to all time stamps, before the first packet is written."""
        self._shift = shift_s

    def mux(self, packet: Packet[Any]) -> None:
        """Write one packet of the source; those of streams that are left out are ignored."""
        stream = packet.stream
        track = None if stream is None else self._tracks.get(packet.stream_index)
        if track is None or (packet.dts is None and packet.pts is None) or not packet.size:
            return
        if track.converter is None:
            if packet.size == 2 and track.is_mov_text and bytes(packet) == b"\0\0":
                return  # "nothing is shown": the muxer fills gaps with these itself
            for whole in self._unwrapped(track, reference(packet)):
                self._write(track, whole)
            return
        self._convert(track, packet)

    def flush(self) -> None:
        """Write what the converters still hold."""
        for track in self._tracks.values():
            if track.converter is not None:
                self._convert(track, None)

    def damage(self) -> list[str]:
        """Return a line for each stream with packets that could not be converted."""
        lines = []
        for index, track in self._tracks.items():
            damaged = track.damaged + (track.converter.damaged if track.converter else 0)
            if damaged:
                lines.append(
                    f"{damaged} damaged packets of {track.template.type} stream {index} "
                    "could not be converted and are left out"
                )
        return lines

    def close(self) -> None:
        """Let go of the copies."""
        self._tracks.clear()
        self._shelf.close()

    @staticmethod
    def _unwrapped(track: _Track, packet: Packet[Any]) -> list[Packet[Any]]:
        if track.unwrap is None:
            return [packet]
        base = packet.time_base
        try:
            packets = track.unwrap.filter(packet)
        except av.error.FFmpegError:
            track.damaged += 1
            return []
        for other in packets:
            other.time_base = base
        return packets

    def _convert(self, track: _Track, packet: Packet[Any] | None) -> None:
        assert track.converter is not None
        for converted in track.converter.encode(packet):
            if self._stopped.is_set():
                raise Stopped
            self._write(track, converted)

    def _write(self, track: _Track, packet: Packet[Any]) -> None:
        assert self._mux is not None
        assert track.stream is not None
        base = packet.time_base or track.template.time_base or Fraction(1, 90_000)
        shift = round(self._shift / base)
        if packet.pts is not None:
            packet.pts += shift
        if packet.dts is not None:
            packet.dts += shift
        if packet.dts is None:
            packet.dts = packet.pts
        elif packet.pts is None:
            packet.pts = packet.dts
        assert packet.dts is not None
        assert packet.pts is not None
        if track.last_dts is not None and packet.dts <= track.last_dts:
            # A broken source; muxers refuse such a packet and then the whole file would be lost.
            packet.dts = track.last_dts + 1
            packet.pts = max(packet.pts, packet.dts)
            self.repaired += 1
        track.last_dts = packet.dts
        packet.time_base = base
        packet.stream = track.stream
        self._mux(packet)
        track.written += 1


def reference(packet: Packet[Any]) -> Packet[Any]:
    """Return a new packet with the same bytes (shared), time stamps, flags and side data."""
    other = av.Packet(packet)  # type: ignore[arg-type]
    other.pts, other.dts, other.duration = packet.pts, packet.dts, packet.duration
    other.time_base = packet.time_base
    other.is_keyframe = packet.is_keyframe
    other.is_corrupt = packet.is_corrupt
    for data in packet.iter_sidedata():
        other.set_sidedata(data, move=True)
    return other


def clean_tags(tags: Mapping[str, str], drop: frozenset[str] = _CONTAINER_TAGS) -> dict[str, str]:
    """Return the tags without those that describe the file that they came from."""
    return {
        key: value
        for key, value in tags.items()
        if key.lower() not in drop and not key.upper().startswith(_STALE_TAGS)
    }


def shifted_chapters(chapters: Sequence[Any], shift_s: Fraction) -> list[Any]:
    """Return the chapters with all times moved, never before 0."""
    result = []
    for number, chapter in enumerate(chapters, 1):
        base = chapter["time_base"] or Fraction(1, 1000)
        shift = round(shift_s / base)
        start, end = (max(0, chapter[key] + shift) for key in ("start", "end"))
        result.append({**chapter, "id": number, "start": start, "end": max(start, end)})
    return result


def _label(stream: Stream, codec: str) -> str:
    language = stream.metadata.get("language")
    title = stream.metadata.get("title") or stream.metadata.get("filename")
    details = ", ".join(text for text in (codec, language, title) if text)
    return f"{stream.type} stream {stream.index} ({printable(details)})"
