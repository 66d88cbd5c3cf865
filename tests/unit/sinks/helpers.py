"""What the tests of the sinks share: playing a clip into a sink, and reading a result."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

from streamseg.frames import Colour, Frame, StreamInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from streamseg.abc import Sink

TB = Fraction(1, 12_800)


def info_of(
    *,
    name: str = "synthetic",
    width: int = 64,
    height: int = 48,
    pixel_format: str = "yuv420p",
    time_base: Fraction = TB,
    rate: Fraction | None = Fraction(25),
    **rest: Any,
) -> StreamInfo:
    return StreamInfo(name, width, height, pixel_format, time_base, rate, **rest)


def make_frame(
    number: int,
    pts: int | None = None,
    *,
    width: int = 64,
    height: int = 48,
    pixel_format: str = "yuv420p",
    time_base: Fraction = TB,
    duration: int = 0,
    value: int = 128,
) -> Frame:
    video = av.VideoFrame(width, height, pixel_format)
    for plane in video.planes:
        plane.update(bytes([(value + number) % 200 + 20]) * plane.buffer_size)
    video.pts = number * 512 if pts is None else pts
    video.time_base = time_base
    video.duration = duration
    return Frame(video, number, 0.0)


def info_from(container: Any, name: str) -> StreamInfo:
    video = container.streams.video[0]
    context = video.codec_context
    return StreamInfo(
        name,
        context.width,
        context.height,
        context.pix_fmt,
        video.time_base,
        video.average_rate,
        sample_aspect_ratio=context.sample_aspect_ratio or Fraction(1),
        colour=Colour.of(context),
        side_streams=[s for s in container.streams if s.type != "video"],
        metadata=dict(container.metadata),
        video_metadata=dict(video.metadata),
        chapters=container.chapters(),
    )


def events(container: Any) -> Iterator[Frame | list[Any]]:
    """Frames, and lists of side packets, in the order of the file."""
    number = 0
    for packet in container.demux():
        if packet.stream.type == "video":
            if packet.stream.index != container.streams.video[0].index:
                continue
            for video in packet.decode():
                yield Frame(video, number, 0.0)
                number += 1
        elif packet.size:
            yield [packet]


async def play(path: Path | str, sink: Sink, *, name: str | None = None) -> None:
    """Send a whole clip into a sink and finish it."""
    with av.open(str(path)) as container:
        await sink.open(info_from(container, name or str(path)))
        for event in events(container):
            if isinstance(event, list):
                await sink.send_packets(event)
            else:
                await sink.send(event)
        await sink.finish()
        await sink.commit()


async def write(sink: Sink, frames: Iterable[Frame], info: StreamInfo | None = None) -> None:
    """Send these frames and finish."""
    await sink.open(info or info_of())
    for frame in frames:
        await sink.send(frame)
    await sink.finish()
    await sink.commit()


@asynccontextmanager
async def closing(sink: Sink) -> AsyncIterator[Sink]:
    try:
        yield sink
    finally:
        await sink.aclose()


@dataclass
class Read:
    """What is in a file; times in exact seconds."""

    times: list[Fraction] = field(default_factory=list)
    decoded: list[Fraction] = field(default_factory=list)
    end: Fraction = Fraction(0)
    codec: str = ""
    pixel_format: str = ""
    size: tuple[int, int] = (0, 0)
    colour: Colour = field(default_factory=Colour)
    aspect: Fraction | None = None
    types: list[str] = field(default_factory=list)
    codecs: list[str] = field(default_factory=list)
    tags: list[dict[str, str]] = field(default_factory=list)
    dispositions: list[int] = field(default_factory=list)
    payloads: dict[int, list[str]] = field(default_factory=dict)
    side_times: dict[int, list[Fraction]] = field(default_factory=dict)
    chapters: list[Any] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)


def read(path: Path | str, *, decode: bool = True) -> Read:
    """Read a whole file; the first video stream is the video."""
    result = Read()
    payloads: defaultdict[int, list[str]] = defaultdict(list)
    side_times: defaultdict[int, list[Fraction]] = defaultdict(list)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        context = video.codec_context
        result.codec, result.pixel_format = context.codec.canonical_name, str(context.pix_fmt)
        result.size = (context.width, context.height)
        result.colour = Colour.of(context)
        result.aspect = context.sample_aspect_ratio
        result.types = [s.type for s in container.streams]
        result.codecs = [
            s.codec_context.codec.canonical_name if s.codec_context else ""
            for s in container.streams
        ]
        result.tags = [dict(s.metadata) for s in container.streams]
        result.dispositions = [int(s.disposition) for s in container.streams]
        result.chapters, result.metadata = container.chapters(), dict(container.metadata)
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.stream_index == video.index:
                assert packet.pts is not None
                result.times.append(packet.pts * packet.time_base)
                result.end = max(
                    result.end, (packet.pts + (packet.duration or 0)) * packet.time_base
                )
            else:
                payloads[packet.stream_index].append(hashlib.md5(bytes(packet)).hexdigest())
                if packet.pts is not None:
                    side_times[packet.stream_index].append(packet.pts * packet.time_base)
        if video.duration:
            result.end = (video.duration + (video.start_time or 0)) * video.time_base
    result.times.sort()
    result.payloads, result.side_times = dict(payloads), dict(side_times)
    if decode:
        with av.open(str(path)) as container:
            result.decoded = [
                Fraction(f.pts or 0) * (f.time_base or 1) for f in container.decode(video=0)
            ]
    return result


def leftovers(folder: Path) -> list[str]:
    """Hidden files that a sink left behind."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def listing(folder: Path) -> list[str]:
    """All names in a folder, hidden ones included."""
    return sorted(path.name for path in folder.iterdir())
