"""FileSource over real files, made here by real encoders."""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import av
import numpy as np
import pytest

from streamseg.errors import ConfigError, SourceOpenError
from streamseg.sources import FileSource
from tests.support.clips import draw_frame, draw_picture, make_clip, read_frame_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.abc import SourceStatistics
    from streamseg.frames import Frame, StreamInfo

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

THREAD = "streamseg-file-source"


@dataclass
class Read:
    """All that came out of a source; nothing in it needs the source any more."""

    info: StreamInfo
    side_types: list[str]
    frames: list[Frame] = field(default_factory=list)
    packets: list[tuple[int, str, int, int, Fraction]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    statistics: SourceStatistics | None = None

    @property
    def numbers(self) -> list[int]:
        return [read_frame_number(frame.video) for frame in self.frames]

    @property
    def pts(self) -> list[int | None]:
        return [frame.pts for frame in self.frames]

    @property
    def times(self) -> list[Fraction]:
        return [frame.video.pts * frame.time_base for frame in self.frames]

    @property
    def kinds(self) -> set[tuple[int, int, str]]:
        return {(frame.width, frame.height, frame.pixel_format) for frame in self.frames}

    def sides(self, kind: str) -> list[Fraction]:
        return [pts * base for _, of, pts, _, base in self.packets if of == kind]


async def read(path: Path | str, **options: Any) -> Read:
    """Read to the end, and check what must hold for every file."""
    async with FileSource(path, **options) as source:
        info = await source.open()
        result = Read(info, [stream.type for stream in info.side_streams])
        while True:
            try:
                frame = await source.receive()
            except anyio.EndOfStream:
                break
            result.frames.append(frame)
            result.packets += map(_facts, source.take_packets())
        result.packets += map(_facts, source.take_packets())
        with pytest.raises(anyio.EndOfStream):
            await source.receive()
        result.notices = list(source.notices)
        result.statistics = source.statistics()
    # Streams must not be touched, not even printed, once their source is closed.
    result.info = _without_streams(info)
    assert [frame.index for frame in result.frames] == list(range(len(result.frames)))
    stamps = result.pts
    assert None not in stamps
    assert all(a < b for a, b in pairwise(stamps))
    assert result.statistics.delivered == len(result.frames)
    assert result.kinds == {(info.width, info.height, info.pixel_format)}
    assert {frame.time_base for frame in result.frames} == {info.time_base}
    assert not any(frame.video.interlaced_frame for frame in result.frames)
    return result


def _facts(packet: av.Packet[Any]) -> tuple[int, str, int, int, Fraction]:
    stream = packet.stream
    assert packet.pts is not None
    return stream.index, stream.type, packet.pts, packet.size, packet.time_base


def _without_streams(info: StreamInfo) -> StreamInfo:
    from dataclasses import replace

    return replace(info, side_streams=())


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


# ---- formats ----


@pytest.mark.parametrize(
    ("name", "settings", "pixel_format"),
    [
        ("h264.mp4", {}, "yuv420p"),
        ("h264.mkv", {}, "yuv420p"),
        ("h264.mov", {"pix_fmt": "yuv422p"}, "yuv422p"),
        ("h264_10bit.mp4", {"pix_fmt": "yuv420p10le"}, "yuv420p10le"),
        ("h264_444_odd.mp4", {"pix_fmt": "yuv444p", "size": (321, 181)}, "yuv444p"),
        ("hevc_10bit.mp4", {"codec": "libx265", "pix_fmt": "yuv420p10le"}, "yuv420p10le"),
        ("vp8.webm", {"codec": "libvpx"}, "yuv420p"),
        ("vp9_odd.webm", {"codec": "libvpx-vp9", "size": (321, 181)}, "yuv420p"),
        ("av1.mp4", {"codec": "libsvtav1"}, "yuv420p"),
        ("mpeg4.avi", {"codec": "mpeg4", "b_frames": 0}, "yuv420p"),
        ("mpeg2.ts", {"codec": "mpeg2video"}, "yuv420p"),
        ("prores.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}, "yuv422p10le"),
        ("mjpeg.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}, "yuvj420p"),
        ("animation.gif", {"codec": "gif", "pix_fmt": "rgb8"}, "bgra"),
        ("ffv1.mkv", {"codec": "ffv1", "pix_fmt": "yuv444p16le"}, "yuv444p16le"),
    ],
)
async def test_every_frame_of_every_format_arrives(
    tmp_path: Path, name: str, settings: dict[str, Any], pixel_format: str
) -> None:
    clip = make_clip(tmp_path / name, frames=15, **settings)
    got = await read(clip.path)
    assert got.numbers == list(range(15))
    assert got.info.pixel_format == pixel_format
    assert (got.info.width, got.info.height) == clip.size
    assert got.info.average_rate == 25
    assert got.info.frame_count == 15
    assert got.info.duration_s == pytest.approx(0.6, abs=0.005)
    assert [time - got.times[0] for time in got.times] == list(clip.times)
    assert got.notices == []
    assert got.info.live is False
    assert got.info.name == str(clip.path)


async def test_time_stamps_of_variable_rate_are_untouched(tmp_path: Path) -> None:
    times = [Fraction(n * n, 90) for n in range(20)]
    clip = make_clip(tmp_path / "vfr.mp4", frames=20, times=times, time_base=Fraction(1, 90_000))
    got = await read(clip.path)
    assert got.pts == [round(time * 90_000) for time in times]
    assert got.info.time_base == Fraction(1, 90_000)


async def test_time_that_begins_late_stays_late(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "late.mp4", frames=10, start_s=2, audio_tracks=1)
    got = await read(clip.path)
    assert got.times == [2 + Fraction(n, 25) for n in range(10)]


async def test_raw_stream_without_time_stamps_gets_even_ones(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "raw.h264", frames=20, rate=30, format="h264")
    got = await read(clip.path)
    assert got.numbers == list(range(20))
    rate = got.info.average_rate
    assert rate is not None
    assert got.times == [n / rate for n in range(20)]
    assert "20 frames without a time stamp" in got.notices[0]


@pytest.mark.parametrize(
    ("colour", "pix_fmt", "expected"),
    [
        ((1, 1, 1, 1), "yuv420p", "yuv420p"),
        ((6, 1, 6, 6), "yuv420p", "yuv420p"),
        ((9, 1, 9, 16), "yuv420p10le", "yuv420p10le"),
        ((1, 2, 1, 1), "yuv420p", "yuvj420p"),
    ],
)
@pytest.mark.parametrize("rotation", [0, 90])
async def test_colour_description_survives_turning(
    tmp_path: Path, colour: tuple[int, int, int, int], pix_fmt: str, expected: str, rotation: int
) -> None:
    clip = make_clip(
        tmp_path / "c.mp4", frames=3, colour=colour, pix_fmt=pix_fmt, rotation=rotation
    )
    got = await read(clip.path)
    described = got.info.colour
    found = (described.space, described.range, described.primaries, described.transfer)
    assert found == colour
    for frame in got.frames:
        video = frame.video
        assert (video.colorspace, video.color_range) == colour[:2]
        assert (video.color_primaries, video.color_trc) == colour[2:]
    assert got.info.pixel_format == expected


async def test_turning_moves_samples_and_does_not_change_them(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "t.mp4", frames=2, rotation=90, pix_fmt="yuv444p")
    with av.open(str(clip.path)) as container:
        stored = [frame.to_ndarray() for frame in container.decode(video=0)]
    got = await read(clip.path)
    for before, frame in zip(stored, got.frames, strict=True):
        after = frame.video.to_ndarray()
        assert np.array_equal(np.rot90(before, k=-1, axes=(1, 2)), after)


# ---- geometry ----


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True)])
async def test_pictures_are_upright_whatever_the_display_matrix(
    tmp_path: Path, rotation: int, flips: tuple[bool, bool]
) -> None:
    clip = make_clip(
        tmp_path / "r.mp4", frames=4, rotation=rotation, hflip=flips[0], vflip=flips[1]
    )
    got = await read(clip.path)
    assert got.numbers == [0, 1, 2, 3]
    assert (got.info.width, got.info.height) == (320, 180)
    assert all(frame.video.rotation == 0 for frame in got.frames)


@pytest.mark.parametrize("name", ["r.mov", "r.mkv"])
async def test_rotation_in_other_containers(tmp_path: Path, name: str) -> None:
    got = await read(make_clip(tmp_path / name, frames=4, rotation=90).path)
    assert got.numbers == [0, 1, 2, 3]


@pytest.mark.parametrize("pix_fmt", ["yuv422p", "yuv422p10le", "yuv444p", "yuv420p10le"])
async def test_turning_keeps_the_pixel_format(tmp_path: Path, pix_fmt: str) -> None:
    clip = make_clip(tmp_path / "r.mp4", frames=3, rotation=270, pix_fmt=pix_fmt)
    got = await read(clip.path)
    assert got.info.pixel_format == pix_fmt
    assert got.numbers == [0, 1, 2]


@pytest.mark.parametrize(("rotation", "expected"), [(0, Fraction(4, 3)), (90, Fraction(3, 4))])
async def test_sample_aspect_ratio_turns_with_the_picture(
    tmp_path: Path, rotation: int, expected: Fraction
) -> None:
    clip = make_clip(
        tmp_path / "a.mp4", frames=2, sample_aspect_ratio=Fraction(4, 3), rotation=rotation
    )
    assert (await read(clip.path)).info.sample_aspect_ratio == expected


@pytest.mark.parametrize("frames", [1, 2, 15])
@pytest.mark.parametrize("rotation", [0, 90])
async def test_interlaced_frames_are_deinterlaced_one_to_one(
    tmp_path: Path, frames: int, rotation: int
) -> None:
    clip = make_clip(tmp_path / "i.mp4", frames=frames, interlaced=True, rotation=rotation)
    got = await read(clip.path)
    assert got.numbers == list(range(frames))
    assert got.times == list(clip.times)


async def test_interlaced_transport_stream(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "i.ts", codec="mpeg2video", interlaced=True, size=(352, 288), frames=15
    )
    got = await read(clip.path)
    assert got.numbers == list(range(15))
    # The fields were drawn at two moments: their comb must be gone.
    luma = got.frames[7].video.to_ndarray(format="gray").astype(int)
    comb = np.abs(luma[1:-1] * 2 - luma[:-2] - luma[2:])
    plain = await read(make_clip(tmp_path / "p.ts", codec="mpeg2video", size=(352, 288)).path)
    reference = plain.frames[7].video.to_ndarray(format="gray").astype(int)
    smooth = np.abs(reference[1:-1] * 2 - reference[:-2] - reference[2:])
    assert comb.mean() < smooth.mean() * 1.5


async def test_size_that_changes_midway_is_scaled_to_the_first(tmp_path: Path) -> None:
    first = make_clip(tmp_path / "1.ts", frames=10, size=(320, 180))
    second = make_clip(tmp_path / "2.ts", frames=10, size=(480, 360), start_s=0.4, first_number=10)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.path.read_bytes() + second.path.read_bytes())
    got = await read(joined)
    assert got.numbers == list(range(20))
    assert (got.info.width, got.info.height) == (320, 180)
    assert any("from 320x180 to 480x360 at frame 10" in notice for notice in got.notices)


async def test_pixel_format_that_changes_midway_is_converted_to_the_first(tmp_path: Path) -> None:
    for number in range(4):
        pixel_format = "rgb24" if number < 2 else "gray"
        _save_picture(tmp_path / f"mixed_{number}.png", draw_picture(number), pixel_format)
    got = await read(tmp_path / "mixed_%d.png")
    assert got.info.pixel_format == "rgb24"
    assert got.numbers == [0, 1, 2, 3]
    assert any("pixel format changes" in notice for notice in got.notices)


# ---- streams beside the video ----


@pytest.mark.parametrize("name", ["s.mp4", "s.mkv"])
async def test_packets_of_all_side_streams_arrive_in_order(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / name, frames=60, audio_tracks=2, subtitle_tracks=1)
    got = await read(clip.path)
    assert got.side_types == ["audio", "audio", "subtitle"]
    for track in (1, 2):
        stamps = [pts for index, _, pts, _, _ in got.packets if index == track]
        assert stamps == sorted(stamps)
        assert len(stamps) == clip.audio_packets[track - 1]
    texts = [size for _, kind, _, size, _ in got.packets if kind == "subtitle" and size > 4]
    assert len(texts) == 3


async def test_without_side_streams_nothing_but_frames_comes(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "s.mp4", audio_tracks=2, subtitle_tracks=1)
    got = await read(clip.path, side_streams=False)
    assert got.numbers == list(range(25))
    assert got.packets == []
    assert got.side_types == []


async def test_chapters_tags_and_attachments(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "m.mkv",
        frames=50,
        chapters=[(0, 1, "one"), (1, 2, "two")],
        metadata={"title": "A title"},
        attachment=True,
        audio_tracks=1,
    )
    got = await read(clip.path)
    assert got.info.metadata["title"] == "A title"
    assert [chapter["metadata"]["title"] for chapter in got.info.chapters] == ["one", "two"]
    assert got.side_types == ["audio", "attachment"]


async def test_chapter_track_of_mp4_is_not_a_side_stream(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "m.mp4", frames=50, chapters=[(0, 1, "one"), (1, 2, "two")])
    got = await read(clip.path)
    assert got.side_types == []
    assert len(got.info.chapters) == 2


async def test_cover_picture_is_not_taken_for_the_video(tmp_path: Path) -> None:
    got = await read(make_clip(tmp_path / "c.mp4", frames=10, cover=True).path)
    assert got.numbers == list(range(10))
    assert got.notices == ["the cover picture is not carried over"]


async def test_second_video_stream_is_left_out_and_told(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "one.mp4", frames=10)
    with av.open(str(clip.path)) as one, av.open(str(tmp_path / "two.mp4"), "w") as two:
        video = one.streams.video[0]
        copies = [two.add_stream_from_template(video) for _ in range(2)]
        for copy in copies:
            one.seek(0)
            for packet in one.demux(video):
                if packet.dts is not None:
                    packet.stream = copy
                    two.mux(packet)
    got = await read(tmp_path / "two.mp4")
    assert got.numbers == list(range(10))
    assert got.notices == ["only video stream #0 is used, not #1"]


@pytest.mark.parametrize("interleave", ["video_first", "audio_first"])
async def test_badly_interleaved_file_is_read_whole(tmp_path: Path, interleave: str) -> None:
    clip = make_clip(tmp_path / "b.mkv", frames=100, audio_tracks=1, interleave=interleave)
    got = await read(clip.path)
    assert got.numbers == list(range(100))
    assert len(got.packets) == clip.audio_packets[0]


# ---- a part of a file ----


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("s.mp4", {}),
        ("s.mp4", {"b_frames": 3, "gop": 30}),
        ("s.mkv", {"audio_tracks": 1}),
        ("s.ts", {"audio_tracks": 1, "gop": 25}),
        ("s.webm", {"codec": "libvpx-vp9"}),
        ("s.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
        ("s.avi", {"codec": "mpeg4", "b_frames": 0}),
        ("s.h264", {"format": "h264"}),
        ("s.mp4", {"rate": Fraction(30_000, 1001)}),
        ("late.mp4", {"start_s": 3}),
    ],
)
async def test_start_is_exact_to_the_frame(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    clip = make_clip(tmp_path / name, frames=75, **settings)
    rate = Fraction(settings.get("rate", 25))
    with av.open(str(clip.path)) as container:
        video = container.streams.video[0]
        origin = Fraction(container.start_time or 0, 1_000_000)
        first = Fraction(video.start_time or 0) * (video.time_base or 1)
    for number in (0, 1, 11, 12, 13, 24, 25, 60, 74):
        start_s = float(max(Fraction(0), first - origin + number / rate))
        got = await read(clip.path, start_s=start_s)
        assert got.numbers == list(range(number, 75)), f"start at frame {number}"
        assert 0 <= got.times[0] <= Fraction(6, 100)


async def test_start_between_frames_begins_with_the_next_one(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "s.mp4", frames=50)
    got = await read(clip.path, start_s=0.41)
    assert got.numbers[0] == 11
    assert got.times[0] == Fraction(44, 100) - Fraction(41, 100)


async def test_start_moves_all_streams_by_the_same_time(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "s.mp4",
        frames=100,
        audio_tracks=1,
        subtitle_tracks=1,
        chapters=[(0, 1.5, "one"), (1.5, 3.5, "two"), (3.5, 4, "three")],
    )
    whole = await read(clip.path)
    got = await read(clip.path, start_s=1.2, duration_s=2)
    assert got.numbers == list(range(30, 80))
    assert got.times[0] == 0
    assert got.times[-1] == Fraction(49, 25)
    expected = [
        time - Fraction(12, 10)
        for time in whole.sides("audio")
        if Fraction(12, 10) <= time < Fraction(32, 10)
    ]
    sound = got.sides("audio")
    assert len(sound) == len(expected)
    assert all(abs(a - b) < Fraction(1, 10_000) for a, b in zip(sound, expected, strict=True))
    texts = [
        float(pts * base) for _, kind, pts, size, base in got.packets
        if kind == "subtitle" and size > 4
    ]  # fmt: skip
    assert texts == pytest.approx([0.8, 1.8])
    assert got.info.frame_count == 50
    assert got.info.duration_s == pytest.approx(2)
    spans = [
        (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"]))
        for c in got.info.chapters
    ]
    assert spans == [pytest.approx((0, 0.3)), pytest.approx((0.3, 2))]


async def test_duration_alone_leaves_time_stamps_alone(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "s.ts", frames=50, audio_tracks=1)
    whole = await read(clip.path)
    got = await read(clip.path, duration_s=1)
    assert got.pts == whole.pts[: len(got.pts)]
    assert 24 <= len(got.frames) <= 25
    limit = max(got.times) + Fraction(1, 25)
    assert max(got.sides("audio")) < limit
    assert len(got.sides("audio")) in range(44, 49)


async def test_sound_up_to_the_end_comes_although_it_is_stored_behind(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "b.mkv", frames=100, audio_tracks=1, interleave="video_first")
    got = await read(clip.path, duration_s=2)
    assert got.numbers == list(range(50))
    assert len(got.packets) == 95  # 2 s of 1024 samples at 48 kHz, and one before them


async def test_start_beyond_the_end_names_the_length(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "s.mp4", frames=50)
    with pytest.raises(SourceOpenError, match=r"is 2\.000 s long: a start of 9 s is beyond"):
        await read(clip.path, start_s=9)
    raw = make_clip(tmp_path / "s.h264", frames=50, format="h264")
    with pytest.raises(SourceOpenError, match=r"s long: a start of 9 s is beyond"):
        await read(raw.path, start_s=9)


@pytest.mark.parametrize(
    "options",
    [{"start_s": -1}, {"start_s": float("nan")}, {"duration_s": 0}, {"rate": 0}, {"rate": -5}],
)
async def test_impossible_option_is_a_config_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        FileSource("x.mp4", **options)


# ---- images ----


@pytest.mark.parametrize(
    ("name", "pixel_format"),
    [("i.png", "rgb24"), ("i.jpg", "yuvj444p"), ("i.webp", "yuv420p"), ("i.bmp", "bgr24")],
)
async def test_an_image_is_one_frame(tmp_path: Path, name: str, pixel_format: str) -> None:
    _save(tmp_path / name, 7)
    got = await read(tmp_path / name)
    assert got.numbers == [7]
    assert got.info.frame_count == 1
    assert got.times == [0]
    if name != "i.jpg":
        assert got.info.pixel_format == pixel_format
    assert got.notices == []


@pytest.mark.parametrize("name", ["100%.png", "a:b.png", "-x.png", "50%d.png", "ä 'x'.png"])
async def test_odd_names_are_files_and_nothing_else(tmp_path: Path, name: str) -> None:
    _save(tmp_path / "plain.png", 5)
    (tmp_path / name).write_bytes((tmp_path / "plain.png").read_bytes())
    assert (await read(tmp_path / name)).numbers == [5]
    clip = make_clip(tmp_path / "plain.mp4", frames=3)
    film = tmp_path / name.replace(".png", ".mp4")
    film.write_bytes(clip.path.read_bytes())
    assert (await read(film)).numbers == [0, 1, 2]


_READ_AND_COLLECT = """
import gc, sys
sys.path.insert(0, sys.argv[2])
import anyio
from streamseg.sources import FileSource
from tests.support.clips import read_frame_number
async def main():
    async with FileSource(sys.argv[1]) as source:
        frame = await source.receive()
        gc.collect()
        print(read_frame_number(frame.video), frame.width, frame.height, frame.video.rotation)
    del frame, source
    for _ in range(3):
        gc.collect()
anyio.run(main)
"""


async def _read_apart(path: Path) -> str:
    """Read one picture in a process of its own: a crash is then a failure of the test."""
    done = await anyio.run_process(
        [sys.executable, "-c", _READ_AND_COLLECT, str(path), os.getcwd()], check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().strip()


# EXIF orientation -> how a picture that shall be seen upright is stored (TIFF 6.0, tag 0x0112).
_STORED = {
    1: lambda picture: picture,
    2: lambda picture: picture[:, ::-1],
    3: lambda picture: picture[::-1, ::-1],
    4: lambda picture: picture[::-1],
    5: lambda picture: picture.swapaxes(0, 1),
    6: lambda picture: np.rot90(picture, 1),
    7: lambda picture: np.rot90(picture[::-1], 1),
    8: lambda picture: np.rot90(picture, -1),
}


@pytest.mark.parametrize("orientation", _STORED)
async def test_photograph_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "photo.jpg"
    _save_picture(path, np.ascontiguousarray(_STORED[orientation](draw_picture(3))))
    path.write_bytes(_with_exif(path.read_bytes(), orientation))
    assert await _read_apart(path) == "3 320 180 0"


async def test_picture_with_a_named_colour_profile_is_read(tmp_path: Path) -> None:
    _save(tmp_path / "plain.png", 3)
    plain = (tmp_path / "plain.png").read_bytes()
    body = b"iCCP" + b"a name\0\0" + zlib.compress(bytes(128))
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    header = 8 + 12 + 13
    path = tmp_path / "profile.png"
    path.write_bytes(plain[:header] + chunk + plain[header:])
    assert await _read_apart(path) == "3 320 180 0"


# ---- which files ----


def _real(path: Path) -> str:
    return os.path.realpath(path)


@pytest.mark.parametrize("name", [b"narrow\xe2\x80\xafspace.png", b"not \xff utf-8.png"])
async def test_files_are_real_paths_whatever_the_name(tmp_path: Path, name: bytes) -> None:
    _save(tmp_path / "plain.png", 5)
    path = tmp_path / os.fsdecode(name)
    (tmp_path / "plain.png").rename(path)
    got = await read(path)
    assert got.numbers == [5]
    assert got.info.files == (_real(path),)
    assert got.info.name != str(path)


async def test_files_follow_links(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "real.mp4", frames=2)
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / "link.mp4"
    link.symlink_to(clip.path)
    assert (await read(link)).info.files == (_real(clip.path),)


async def test_files_of_numbered_images_are_all_that_are_read(tmp_path: Path) -> None:
    for name in ("008", "009", "010", "012", "0011"):
        _save(tmp_path / f"f{name}.png", int(name))
    got = await read(tmp_path / "f%03d.png")
    assert got.numbers == [8, 9, 10]
    folder = _real(tmp_path)
    assert got.info.files == tuple(f"{folder}/f{number}.png" for number in ("008", "009", "010"))


@pytest.mark.parametrize("first", [0, 1, 37])
async def test_numbered_images_begin_at_the_lowest_number(tmp_path: Path, first: int) -> None:
    for number in range(6):
        _save(tmp_path / f"frame_{number + first:05d}.png", number)
    _save(tmp_path / "frame_1.png", 99)
    got = await read(tmp_path / "frame_%05d.png", rate=10)
    assert got.numbers == list(range(6))
    assert got.times == [Fraction(n, 10) for n in range(6)]
    assert got.info.average_rate == 10
    assert got.info.frame_count == 6
    part = await read(tmp_path / "frame_%05d.png", rate=10, start_s=0.2, duration_s=0.3)
    assert part.numbers == [2, 3, 4]


async def test_gap_in_numbered_images_is_told(tmp_path: Path) -> None:
    for number in (0, 1, 3):
        _save(tmp_path / f"f{number}.png", number)
    got = await read(tmp_path / "f%d.png")
    assert got.numbers == [0, 1]
    assert got.info.average_rate == 25
    assert "image number 2 is missing" in got.notices[0]


# ---- damage ----


async def test_cut_mp4_delivers_what_there_is_and_says_so(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=60, faststart=True, audio_tracks=1)
    whole = clip.path.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: int(len(whole) * 0.6)])
    got = await read(cut)
    assert 10 < len(got.frames) < 60
    assert got.numbers[:-3] == list(range(len(got.frames) - 3))
    assert got.statistics is not None
    missing = got.statistics.dropped["missing"]
    undecodable = got.statistics.dropped.get("undecodable", 0)
    assert len(got.frames) + missing + undecodable == 60
    assert any("cut short" in notice and "of 60 frames" in notice for notice in got.notices)
    assert len(got.packets) > 10


@pytest.mark.parametrize("codec", ["libvpx-vp9", "ffv1", "mjpeg", "libx264"])
async def test_cut_matroska_delivers_what_there_is_and_says_so(tmp_path: Path, codec: str) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = make_clip(tmp_path / "w.mkv", frames=100, codec=codec, pix_fmt=pix_fmt)
    whole = clip.path.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) // 2])
    got = await read(cut)
    assert 20 < len(got.frames) < 90
    assert got.numbers[:-1] == list(range(len(got.frames) - 1))
    assert any("cut short" in notice for notice in got.notices)


async def test_empty_chunks_of_avi_are_not_missing_frames(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "n.avi", frames=50, codec="mpeg4", audio_tracks=1, audio_codec="libmp3lame"
    )
    got = await read(clip.path)
    assert got.numbers == list(range(50))
    assert got.notices == []
    assert got.statistics is not None
    assert got.statistics.dropped == {}


async def test_cut_avi_says_so(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.avi", frames=50, codec="mpeg4", b_frames=0)
    whole = clip.path.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    got = await read(cut)
    assert 0 < len(got.frames) < 50
    assert any("cut short" in notice for notice in got.notices)


async def test_cut_transport_stream_delivers_what_there_is(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.ts", frames=60)
    whole = clip.path.read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(whole[: len(whole) // 2 + 77])
    got = await read(cut)
    assert 15 < len(got.frames) < 45
    assert got.numbers[:-1] == list(range(len(got.frames) - 1))


@pytest.mark.parametrize("codec", ["mjpeg", "libvpx-vp9"])
async def test_damaged_packets_in_mid_stream_are_skipped_and_counted(
    tmp_path: Path, codec: str
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = make_clip(tmp_path / "w.mkv", frames=40, codec=codec, pix_fmt=pix_fmt, gop=1)
    damaged = _overwrite_packets(clip.path, tmp_path / "bad.mkv", {10, 11, 25})
    got = await read(damaged)
    assert got.numbers == [n for n in range(40) if n not in (10, 11, 25)]
    assert got.statistics is not None
    assert got.statistics.dropped == {"undecodable": 3}
    assert got.notices == ["3 frames could not be decoded and left out: the file is damaged"]


async def test_damaged_last_packets_do_not_cost_the_ones_before(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mkv", frames=40, codec="mjpeg", pix_fmt="yuvj420p")
    for bad in ({39}, {38}, {38, 39}, {36, 38}):
        got = await read(_overwrite_packets(clip.path, tmp_path / "bad.mkv", bad))
        assert got.numbers == [n for n in range(40) if n not in bad]
        assert got.statistics is not None
        assert got.statistics.dropped == {"undecodable": len(bad)}


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("bad", [{39}, {36}, {35, 36, 37, 38, 39}, {12, 20}])
async def test_damage_near_the_end_costs_no_reordered_frame(
    tmp_path: Path, codec: str, bad: set[int]
) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=40, codec=codec)
    got = await read(_overwrite_packets(clip.path, tmp_path / "bad.mp4", bad))
    assert got.statistics is not None
    assert got.statistics.delivered + got.statistics.dropped["undecodable"] == 40
    if min(bad) > 36:  # no other picture refers to these
        assert len(got.frames) == 40 - len(bad)


async def test_damaged_h264_goes_on(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=60, gop=10)
    content = bytearray(clip.path.read_bytes())
    start = content.index(b"mdat") + len(content) // 4
    content[start : start + 600] = os.urandom(600)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(content)
    got = await read(bad)
    assert len(got.frames) > 45
    assert read_frame_number(got.frames[-1].video) == 59


# ---- what cannot be opened ----


async def _refusal(path: Path | str) -> str:
    before = _descriptors()
    with pytest.raises(SourceOpenError) as caught:
        await read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert Path(path).name in message
    assert _descriptors() == before
    assert _threads() == []
    return message


async def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "no such file" in await _refusal(tmp_path / "nowhere.mp4")
    assert "is a folder" in await _refusal(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "is empty" in await _refusal(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("This is text.\n" * 500)
    assert "cannot be read as video" in await _refusal(tmp_path / "text.mp4")
    (tmp_path / "text.txt").write_text("This is text.\n" * 500)
    await _refusal(tmp_path / "text.txt")
    (tmp_path / "noise.mp4").write_bytes(os.urandom(100_000))
    await _refusal(tmp_path / "noise.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "not a regular file" in await _refusal(tmp_path / "pipe.mp4")
    assert "no image matches" in await _refusal(tmp_path / "frame_%05d.png")
    assert "one %d" in await _refusal(tmp_path / "frame_%d_%d.png")


async def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame) + stream.encode())
    assert "has no video, only audio" in await _refusal(tmp_path / "sound.m4a")


async def test_unfinished_mp4_is_refused_with_the_likely_cause(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=30)
    whole = clip.path.read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    assert "never finished" in await _refusal(tmp_path / "half.mp4")


async def test_header_without_a_picture_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=30, faststart=True)
    whole = clip.path.read_bytes()
    (tmp_path / "head.mp4").write_bytes(whole[: whole.index(b"mdat") + 20])
    assert "no picture could be decoded" in await _refusal(tmp_path / "head.mp4")


async def test_unknown_codec_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mkv", frames=5)
    content = clip.path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ")
    (tmp_path / "unknown.mkv").write_bytes(content)
    assert "no decoder" in await _refusal(tmp_path / "unknown.mkv")


async def test_huge_picture_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    import struct

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
        + chunk(b"IEND", b"")
    )
    await _refusal(tmp_path / "bomb.png")


async def test_playlist_does_not_reach_the_network(tmp_path: Path) -> None:
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n")
    started = time.monotonic()
    await _refusal(playlist)
    assert time.monotonic() - started < 2


_UNPRIVILEGED = """
import os, sys
sys.path.insert(0, sys.argv[2])
import anyio
from streamseg.errors import SourceOpenError
from streamseg.sources import FileSource
import asyncio, anyio._backends._asyncio, anyio.to_thread, av, encodings.idna
FileSource("loads all modules while they can be read")
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
async def main():
    try:
        await FileSource(sys.argv[1]).open()
    except SourceOpenError as error:
        print(error)
anyio.run(main)
"""


async def test_file_without_permission_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "secret.mp4", frames=2)
    clip.path.chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    done = await anyio.run_process(
        [sys.executable, "-c", _UNPRIVILEGED, str(clip.path), os.getcwd()]
    )
    assert "no permission" in done.stdout.decode()
    assert done.stderr == b""


_QUIET = """
import sys
sys.path.insert(0, sys.argv[1])
import anyio
from streamseg.errors import SourceOpenError
from streamseg.sources import FileSource
async def main():
    for path in sys.argv[2:]:
        try:
            async with FileSource(path) as source:
                while True:
                    await source.receive()
        except (anyio.EndOfStream, SourceOpenError):
            pass
anyio.run(main)
"""


async def test_ffmpeg_writes_nothing_to_the_terminal(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=60, faststart=True, audio_tracks=1)
    whole = clip.path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.mp4").write_bytes(os.urandom(50_000))
    mjpeg = make_clip(tmp_path / "w.mkv", frames=10, codec="mjpeg", pix_fmt="yuvj420p")
    _overwrite_packets(mjpeg.path, tmp_path / "bad.mkv", {3, 9})
    names = [str(tmp_path / name) for name in ("cut.mp4", "noise.mp4", "bad.mkv", "none.mp4")]
    done = await anyio.run_process([sys.executable, "-c", _QUIET, os.getcwd(), *names])
    assert (done.stdout, done.stderr) == (b"", b"")


# ---- life and death ----


async def test_nothing_is_left_after_closing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=200, audio_tracks=1)
    before = _descriptors()
    for received in (0, 1, 50):
        source = FileSource(clip.path)
        await source.open()
        for _ in range(received):
            await source.receive()
        started = time.monotonic()
        await source.aclose()
        assert time.monotonic() - started < 2
        await source.aclose()
        assert _threads() == []
        with pytest.raises(anyio.ClosedResourceError):
            await source.receive()
        assert source.take_packets() == []
        statistics = source.statistics()
        assert statistics.delivered == received
        assert statistics.dropped["closed"] >= 1
    assert _descriptors() == before


async def test_source_that_is_not_open_cannot_be_received_from(tmp_path: Path) -> None:
    source = FileSource(tmp_path / "x.mp4")
    with pytest.raises(anyio.ClosedResourceError):
        await source.receive()
    assert source.take_packets() == []
    assert source.notices == []
    await source.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await source.open()


async def test_closing_ends_a_waiting_receive(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=5)
    source = FileSource(clip.path)
    await source.open()
    ended: list[str] = []

    async def drain() -> None:
        try:
            while True:
                await source.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError) as error:
            ended.append(type(error).__name__)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain)
        tasks.start_soon(source.aclose)
    assert ended in (["ClosedResourceError"], ["EndOfStream"])


async def test_cancelling_a_receive_loses_no_frame(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=60, size=(640, 360))
    numbers = []
    async with FileSource(clip.path) as source:
        wait_s = 0.0
        while True:
            wait_s = (wait_s + 0.0003) % 0.003
            with anyio.move_on_after(wait_s):
                try:
                    frame = await source.receive()
                except anyio.EndOfStream:
                    break
                numbers.append(read_frame_number(frame.video))
    assert numbers == list(range(60))


async def test_cancelling_open_leaves_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=30)
    before = _descriptors()
    for delay_s in (0, 0.0005, 0.001, 0.002, 0.004, 0.008):
        with anyio.move_on_after(delay_s):
            async with FileSource(clip.path):
                await anyio.sleep_forever()
        assert _threads() == []
        assert _descriptors() == before


async def test_forgotten_source_warns_and_stops(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=100)
    source: FileSource | None = FileSource(clip.path)
    assert source is not None
    await source.open()
    await source.receive()
    threads = _threads()
    with pytest.warns(ResourceWarning, match="unclosed FileSource"):
        source = None
    for thread in threads:
        thread.join(2)
        assert not thread.is_alive()


async def test_frames_wait_only_a_few_at_a_time(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=200, audio_tracks=1)
    async with FileSource(clip.path) as source:
        await source.receive()
        await anyio.sleep(0.2)  # time to run ahead, were it not stopped
        assert source.statistics().delivered == 1
        assert len(source.take_packets()) < 60
    assert source.statistics().dropped["closed"] <= 8


async def test_event_loop_is_never_blocked(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "w.mp4", frames=60, size=(1280, 720))
    worst = 0.0
    done = False

    async def tick() -> None:
        nonlocal worst
        last = time.perf_counter()
        while not done:
            await anyio.sleep(0.002)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        async with FileSource(clip.path) as source:
            for _ in range(60):
                await source.receive()
        done = True
    assert worst < 0.2


# ---- real clips ----


@pytest.mark.parametrize(
    ("name", "pixel_format", "sound"),
    [
        ("03_skateboarder.mp4", "yuv420p", False),
        ("04_coffee.mp4", "yuv420p", True),
        ("bt709_full_range.mp4", "yuvj420p", False),
    ],
)
async def test_real_clip_is_read_as_pyav_reads_it(
    assets: Path, name: str, pixel_format: str, sound: bool
) -> None:
    path = assets / "media" / name
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        video.thread_type = "AUTO"
        expected = [packet.pts for packet in container.demux(video) if packet.pts is not None]
    pts = []
    async with FileSource(path) as source:
        info = await source.open()
        assert info.pixel_format == pixel_format
        assert (info.width, info.height) == (1280, 720)
        assert any(stream.type == "audio" for stream in info.side_streams) is sound
        while True:
            try:
                pts.append((await source.receive()).pts)
            except anyio.EndOfStream:
                break
            assert all(packet.pts is not None for packet in source.take_packets())
        assert info.frame_count == len(pts)
        assert source.notices == []
    assert pts == sorted(expected)


# ---- helpers ----


def _descriptors() -> set[str]:
    links = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if target.startswith("/"):
            links.add(target)
    return links


def _save(path: Path, number: int) -> None:
    _save_picture(path, draw_picture(number))


def _save_picture(
    path: Path, picture: np.ndarray[Any, np.dtype[np.uint8]], pixel_format: str | None = None
) -> None:
    codec, usual = {
        ".png": ("png", "rgb24"),
        ".jpg": ("mjpeg", "yuvj444p"),
        ".webp": ("libwebp", "yuv420p"),
        ".bmp": ("bmp", "bgr24"),
    }[path.suffix]
    pix_fmt = pixel_format or usual
    height, width = picture.shape[:2]
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream: Any = container.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if codec == "mjpeg":
            stream.codec_context.color_range = 2
            stream.codec_context.options = {"q": "2"}
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format=pix_fmt, dst_color_range="JPEG" if codec == "mjpeg" else None
        )
        frame.pts = 0
        container.mux(stream.encode(frame) + stream.encode())


def _with_exif(jpeg: bytes, orientation: int) -> bytes:
    """Insert an EXIF segment with nothing but the orientation (TIFF 6.0, tag 0x0112)."""
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01" + bytes([0, orientation, 0, 0])
    tiff = b"MM\x00\x2a\x00\x00\x00\x08" + b"\x00\x01" + entry + b"\x00\x00\x00\x00"
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def _overwrite_packets(path: Path, target: Path, numbers: Sequence[int] | set[int]) -> Path:
    """Copy a file with these video packets filled with a value that no decoder takes."""
    with av.open(str(path)) as source, av.open(str(target), "w") as sink:
        video = source.streams.video[0]
        copy = sink.add_stream_from_template(video)
        for number, packet in enumerate(source.demux(video)):
            if packet.dts is None:
                continue
            out: av.Packet[Any] = packet
            if number in numbers:
                out = av.Packet(b"\xff" * packet.size)
                out.pts, out.dts, out.time_base = packet.pts, packet.dts, packet.time_base
                out.duration, out.is_keyframe = packet.duration, packet.is_keyframe
            out.stream = copy
            sink.mux(out)
    return target


def test_draw_frame_reads_back() -> None:
    assert [read_frame_number(draw_frame(number)) for number in (0, 1, 2048, 4095)] == [
        0, 1, 2048, 4095,
    ]  # fmt: skip


async def test_sample_clip_is_as_described() -> None:
    got_marks, levels = [], []
    sample = Path(__file__).parents[1] / "media" / "sample.mp4"
    async with FileSource(sample) as source:
        info = await source.open()
        assert (info.width, info.height, info.frame_count) == (640, 360, 175)
        assert (info.colour.space, info.colour.range) == (1, 1)
        assert [stream.type for stream in info.side_streams] == ["audio"]
        decoder: Any = info.side_streams[0].codec_context
        while True:
            try:
                frame = await source.receive()
            except anyio.EndOfStream:
                break
            corner = frame.video.to_ndarray(format="gray")[4:32, 4:32]
            got_marks.append(corner.mean() > 240)
            for packet in source.take_packets():
                levels += [(part.time, np.abs(part.to_ndarray()).max()) for part in
                           decoder.decode(packet)]  # fmt: skip
    assert [n for n, mark in enumerate(got_marks) if mark] == [
        second * 25 + n for second in range(7) for n in range(5)
    ]
    beeps = [when for when, level in levels if level > 0.2]
    starts = [beeps[0], *(b for a, b in pairwise(beeps) if b - a > 0.5)]
    assert starts == pytest.approx(range(7), abs=0.03)
