"""Clips made at test time: every picture carries its number as a bar code.

`make_clip` writes a file with real encoders, `read_frame_number` reads the number back from a
decoded frame, also after lossy compression, scaling, blurring or a change of pixel format:

    clip = make_clip(tmp_path / "clip.mp4", frames=30, rotation=90, audio_tracks=1)
    ... decode ...
    assert [read_frame_number(frame) for frame in frames] == list(range(30))

The picture: two rows of seven blocks fill its upper half (a white and a black one to compare with,
then twelve bits, most significant first); below them a coloured ramp and a moving square.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from streamseg.priorities import ordinary_priorities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from av.container import OutputContainer
    from numpy.typing import NDArray

__all__ = [
    "Clip",
    "draw_frame",
    "draw_picture",
    "encode_audio",
    "make_clip",
    "read_frame_number",
]

ROWS, COLUMNS = 2, 7
MAX_NUMBER = 2 ** (ROWS * COLUMNS - 2) - 1
SAMPLE_RATE = 48_000
AUDIO_FRAME = 1_024

# The header that text subtitle encoders of FFmpeg want, however the subtitles are stored.
_ASS_HEADER = b"""[Script Info]\r
ScriptType: v4.00+\r
[V4+ Styles]\r
Format: Name, Fontname, Fontsize\r
Style: Default,Arial,16\r
[Events]\r
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r
"""

# By clockwise quarter turns that a player has to make: a, b, c, d of x' = ax + cy, y' = bx + dy.
_TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@dataclass(frozen=True)
class Clip:
    """What `make_clip` wrote.

    Attributes:
        path: The file.
        times: Presentation time of each frame in seconds, exact, as asked for; containers may add
            one offset to all (MPEG-TS) or round (Matroska to 1 ms).
        size: (width, height) of the upright picture.
        audio_packets: Number of packets written for each audio track.
    """

    path: Path
    times: tuple[Fraction, ...]
    size: tuple[int, int]
    audio_packets: tuple[int, ...] = field(default=())


def draw_picture(
    number: int, width: int = 320, height: int = 180, *, fields: bool = False
) -> NDArray[np.uint8]:
    """Return the upright picture of this number: (height, width, 3) uint8 RGB.

    Args:
        number: 0 to 4095.
        width: In pixels, 56 or more.
        height: In pixels, 32 or more.
        fields: Draw the moving square at two moments, one for each field.
    """
    if not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"number is {number}, expected 0 to {MAX_NUMBER}")
    bits = [True, False] + [bool(number >> bit & 1) for bit in range(ROWS * COLUMNS - 3, -1, -1)]
    cells = np.array(bits).reshape(ROWS, COLUMNS)
    half = height // 2
    rows = np.arange(half) * ROWS // half
    columns = np.arange(width) * COLUMNS // width
    picture = np.empty((height, width, 3), np.uint8)
    picture[:half] = np.where(cells[rows][:, columns], 235, 20)[..., None]
    picture[half:, :, 0] = np.linspace(40, 200, width).astype(np.uint8)
    picture[half:, :, 1] = 110
    picture[half:, :, 2] = np.linspace(200, 40, width).astype(np.uint8)
    side = max(8, height // 6)
    for parity in range(2 if fields else 1):
        step = (2 * number + parity) * max(2, width // 80)
        left = step % max(1, width - side)
        rows_of_field = slice(half + side // 2 + parity, half + side // 2 + side, 1 + fields)
        picture[rows_of_field, left : left + side] = (250, 240, 90)
    return picture


def draw_frame(
    number: int, width: int = 320, height: int = 180, *, pixel_format: str = "yuv420p"
) -> av.VideoFrame:
    """Return the picture of this number as a frame, pts = number, time base 1/25."""
    frame = _to_frame(draw_picture(number, width, height), pixel_format, full_range=False)
    frame.pts = number
    frame.time_base = Fraction(1, 25)
    return frame


def read_frame_number(frame: av.VideoFrame | NDArray[np.uint8]) -> int:
    """Return the number that a picture of `draw_picture` carries.

    Args:
        frame: A frame, or (H, W) or (H, W, 3) uint8, upright.

    Raises:
        ValueError: If there is no bar code, or it is not upright.
    """
    if isinstance(frame, av.VideoFrame):
        luma = frame.reformat(format="gray").to_ndarray().astype(np.float32)
    else:
        luma = frame.astype(np.float32).mean(axis=2) if frame.ndim == 3 else frame.astype("f4")
    height, width = luma.shape
    cell_h, cell_w = height / 2 / ROWS, width / COLUMNS
    levels = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            top, left = int((row + 0.3) * cell_h), int((column + 0.3) * cell_w)
            bottom, right = int((row + 0.7) * cell_h) + 1, int((column + 0.7) * cell_w) + 1
            levels.append(float(luma[top:bottom, left:right].mean()))
    white, black = levels[0], levels[1]
    if white - black < 60:
        raise ValueError(f"no upright bar code: reference levels are {white:.0f} and {black:.0f}")
    number = 0
    for level in levels[2:]:
        share = (level - black) / (white - black)
        if 0.35 < share < 0.65 or not -0.3 < share < 1.3:
            raise ValueError(f"bar code cannot be read: a block is at {share:.2f} of white")
        number = number * 2 + (share > 0.5)
    return number


def make_clip(
    path: Path | str,
    *,
    frames: int = 25,
    size: tuple[int, int] = (320, 180),
    rate: Fraction | int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[Fraction] | None = None,
    time_base: Fraction | None = None,
    start_s: Fraction | float = 0,
    gop: int = 12,
    b_frames: int | None = None,
    rotation: int = 0,
    hflip: bool = False,
    vflip: bool = False,
    interlaced: bool = False,
    sample_aspect_ratio: Fraction | None = None,
    colour: tuple[int, int, int, int] | None = None,
    audio_tracks: int = 0,
    audio_codec: str = "aac",
    audio_s: float | None = None,
    subtitle_tracks: int = 0,
    chapters: Sequence[tuple[float, float, str]] = (),
    metadata: Mapping[str, str] | None = None,
    cover: bool = False,
    attachment: bool = False,
    faststart: bool = False,
    interleave: str = "good",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    format: str | None = None,
    first_number: int = 0,
) -> Clip:
    """Write a clip of numbered pictures.

    Args:
        path: The file; its suffix chooses the container.
        frames: Number of pictures.
        size: (width, height) in pixels of the picture once it is upright.
        rate: Frames per second.
        codec: Name of the video encoder.
        pix_fmt: Pixel format to encode.
        times: Time of each frame in seconds, for a variable rate; number/rate if None.
        time_base: Unit of the time stamps; 1/rate, or 1/90000 with ``times``, if None.
        start_s: Added to all times of all streams.
        gop: Frames from one key frame to the next.
        b_frames: How many B frames in a row at most; the encoder's choice if None.
        rotation: 0, 90, 180 or 270: degrees that a player has to turn it clockwise, by metadata.
        hflip: A player has to mirror it left to right (after the rotation), by metadata.
        vflip: A player has to mirror it top to bottom (after the rotation), by metadata.
        interlaced: Encode as two fields, top first.
        sample_aspect_ratio: Of the stored picture.
        colour: Code points of matrix, range (1 limited, 2 full), primaries, transfer.
        audio_tracks: Number of audio tracks; track i is a tone of 440 * (i + 1) Hz that sounds
            in the first quarter of each second.
        audio_codec: Name of the audio encoder.
        audio_s: Length of the sound; that of the video if None.
        subtitle_tracks: Number of text tracks, with one line a second, half a second long.
        chapters: (start_s, end_s, title) of each.
        metadata: Tags of the container.
        cover: Attach a picture (a PNG of number 99; MP4 and MOV only).
        attachment: Attach a file (Matroska only).
        faststart: MP4 and MOV: the index at the front, so that a cut file can still be read.
        interleave: ``good``; ``video_first`` or ``audio_first``: all of one before the other.
        options: Further options of the video encoder.
        container_options: Further options of the container.
        format: Name of the container's format, where the suffix does not say.
        first_number: Number of the first picture.
    """
    path = Path(path)
    rate = Fraction(rate)
    if times is None:
        times = [Fraction(number) / rate for number in range(frames)]
        time_base = time_base or 1 / rate
    time_base = time_base or Fraction(1, 90_000)
    start = Fraction(start_s).limit_denominator(1_000_000)
    stamps = [time + start for time in times[:frames]]
    settings = dict(container_options or {})
    if faststart:
        settings["movflags"] = "+faststart"
    if interleave != "good":
        settings["max_interleave_delta"] = "1"  # microseconds: nothing waits for its neighbours
    full_range = pix_fmt.startswith("yuvj") or (colour is not None and colour[1] == 2)

    with (
        ordinary_priorities(),
        av.open(str(path), "w", format=format, container_options=settings) as container,
    ):
        container.metadata.update(metadata or {})
        image = _add_cover(container) if cover else None
        video = _add_video(
            container, codec, rate, size, pix_fmt, time_base, gop, b_frames, interlaced, options,
            turned=rotation in (90, 270),
        )  # fmt: skip
        context = video.codec_context
        if sample_aspect_ratio is not None:
            context.sample_aspect_ratio = sample_aspect_ratio
        if colour is not None:
            context.colorspace, context.color_range = colour[:2]
            context.color_primaries, context.color_trc = colour[2:]
        elif full_range:
            context.color_range = 2
        if rotation or hflip or vflip:
            a, b, c, d = _TURNS[rotation]
            across, down = (-1 if hflip else 1), (-1 if vflip else 1)
            one = 1 << 16
            matrix = [a * across, b * down, 0, c * across, d * down, 0, 0, 0, 0]
            video.set_display_matrix([value * one for value in matrix[:8]] + [1 << 30])
        audio = [
            container.add_stream(audio_codec, rate=SAMPLE_RATE, layout="mono")
            for _ in range(audio_tracks)
        ]
        texts = _add_subtitles(container, subtitle_tracks)
        if attachment:
            container.add_attachment("notes.txt", "text/plain", b"attached")
        if chapters:
            container.set_chapters(
                [
                    {
                        "id": number + 1,
                        "start": round(begin * 1000),
                        "end": round(end * 1000),
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": title},
                    }
                    for number, (begin, end, title) in enumerate(chapters)
                ]
            )
        container.start_encoding()
        if image is not None:
            container.mux(image)

        def encode_video() -> list[tuple[Fraction, av.Packet[Any]]]:
            encoded = []
            for position, stamp in enumerate(stamps):
                picture = draw_picture(position + first_number, *size, fields=interlaced)
                picture = _as_stored(picture, rotation, hflip=hflip, vflip=vflip)
                frame = _to_frame(picture, pix_fmt, full_range=full_range)
                if colour is not None:
                    frame.colorspace, frame.color_range = colour[:2]
                    frame.color_primaries, frame.color_trc = colour[2:]
                frame.pts = round(stamp / time_base)
                frame.time_base = time_base
                encoded += [(_when(packet), packet) for packet in video.encode(frame)]
            return encoded + [(_when(packet), packet) for packet in video.encode()]

        length = audio_s if audio_s is not None else float(stamps[-1] - start + 1 / rate)
        sound = [
            [
                (_when(p), p)
                for p in encode_audio(stream, length, start=start, tone_hz=440 * (i + 1))
            ]
            for i, stream in enumerate(audio)
        ]
        lines = _subtitle_packets(texts, length, start)
        pictures = encode_video()
        tones = [entry for track in sound for entry in track]
        if interleave == "good":
            every = sorted([*pictures, *tones, *lines], key=lambda entry: entry[0])
        elif interleave == "video_first":
            every = [*pictures, *tones, *lines]
        elif interleave == "audio_first":
            every = [*tones, *lines, *pictures]
        else:
            raise ValueError(f"interleave is {interleave!r}")
        for _, packet in every:
            container.mux(packet)
    return Clip(path, tuple(stamps), size, tuple(len(track) for track in sound))


def encode_audio(
    stream: Any, length_s: float, *, start: Fraction = Fraction(0), tone_hz: float = 440.0
) -> list[av.Packet[Any]]:
    """Encode a tone that sounds in the first quarter of each second."""
    total = round(length_s * SAMPLE_RATE)
    seconds = np.arange(total) / SAMPLE_RATE
    tone = np.where(seconds % 1 < 0.25, 0.4 * np.sin(2 * np.pi * tone_hz * seconds), 0.0)
    samples = (tone * 32767).astype(np.int16)
    packets: list[av.Packet[Any]] = []
    context = stream.codec_context
    sample_format = context.format.name
    resampler = av.AudioResampler(format=sample_format, layout="mono", rate=SAMPLE_RATE)
    context.open(strict=False)
    step = getattr(context, "frame_size", 0) or AUDIO_FRAME
    for begin in range(0, total, step):
        frame = av.AudioFrame.from_ndarray(samples[None, begin : begin + step], "s16", "mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = begin + round(start * SAMPLE_RATE)
        frame.time_base = Fraction(1, SAMPLE_RATE)
        for part in resampler.resample(frame):
            packets += stream.encode(part)
    return packets + list(stream.encode())


def _add_video(
    container: OutputContainer,
    codec: str,
    rate: Fraction,
    size: tuple[int, int],
    pix_fmt: str,
    time_base: Fraction,
    gop: int,
    b_frames: int | None,
    interlaced: bool,
    options: Mapping[str, str] | None,
    *,
    turned: bool,
) -> Any:
    wanted = dict(options or {})
    if codec == "libx264":
        wanted.setdefault("preset", "ultrafast")
        wanted.setdefault("crf", "18")
        if b_frames is None:
            b_frames = 2
        wanted.setdefault("x264-params", f"keyint={gop}:scenecut=0:bframes={b_frames}")
    elif codec == "libx265":
        wanted.setdefault("preset", "ultrafast")
        wanted.setdefault("x265-params", f"log-level=none:keyint={gop}:scenecut=0:pools=1")
    elif codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it writes its settings to stderr otherwise
        wanted.setdefault("preset", "11")
    elif codec in ("libvpx", "libvpx-vp9"):
        wanted.setdefault("deadline", "realtime")
        wanted.setdefault("cpu-used", "8")
    if interlaced:
        wanted["flags"] = "+ilme+ildct"
    stream: Any = container.add_stream(codec, rate=rate, options=wanted)
    stream.width, stream.height = reversed(size) if turned else size
    stream.pix_fmt = pix_fmt
    stream.time_base = time_base
    stream.codec_context.time_base = time_base
    stream.codec_context.gop_size = gop
    if b_frames is not None and codec != "libx264":
        stream.codec_context.max_b_frames = b_frames
    if codec in ("mpeg4", "mpeg2video", "mjpeg", "libx265", "libvpx-vp9", "libvpx"):
        stream.codec_context.bit_rate = 3_000_000
    return stream


def _add_cover(container: OutputContainer) -> av.Packet[Any]:
    stream: Any = container.add_stream("png", rate=1)
    stream.width, stream.height, stream.pix_fmt = 160, 90, "rgb24"
    stream.disposition = av.stream.Disposition.attached_pic
    frame = av.VideoFrame.from_ndarray(draw_picture(99, 160, 90), format="rgb24")
    frame.pts, frame.time_base = 0, Fraction(1, 1)
    packets = stream.encode(frame) + stream.encode()
    packet: av.Packet[Any] = packets[0]
    return packet


def _add_subtitles(container: OutputContainer, tracks: int) -> list[Any]:
    codec = "mov_text" if "mp4" in container.format.name else "subrip"
    streams: list[Any] = []
    for _ in range(tracks):
        stream: Any = container.add_stream(codec)
        stream.codec_context.subtitle_header = _ASS_HEADER
        stream.time_base = Fraction(1, 1000)
        streams.append(stream)
    return streams


def _subtitle_packets(
    streams: Sequence[Any], length_s: float, start: Fraction
) -> list[tuple[Fraction, av.Packet[Any]]]:
    packets = []
    for track, stream in enumerate(streams):
        for second in range(int(np.ceil(length_s))):
            text = f"track {track} second {second}".encode()
            if stream.codec_context.name == "mov_text":
                text = len(text).to_bytes(2, "big") + text
            packet: av.Packet[Any] = av.Packet(text)
            packet.stream = stream
            packet.time_base = Fraction(1, 1000)
            packet.pts = packet.dts = second * 1000 + round(start * 1000)
            packet.duration = 500
            packets.append((_when(packet), packet))
    return packets


def _as_stored(
    picture: NDArray[np.uint8], rotation: int, *, hflip: bool, vflip: bool
) -> NDArray[np.uint8]:
    """Undo what the metadata asks a player to do."""
    if vflip:
        picture = picture[::-1]
    if hflip:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(np.rot90(picture, k=rotation // 90))


def _to_frame(picture: NDArray[np.uint8], pix_fmt: str, *, full_range: bool) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    if full_range:
        return frame.reformat(format=pix_fmt, dst_color_range="JPEG")
    return frame.reformat(format=pix_fmt)


def _when(packet: av.Packet[Any]) -> Fraction:
    stamp = packet.dts if packet.dts is not None else packet.pts
    return Fraction(stamp or 0) * packet.time_base
