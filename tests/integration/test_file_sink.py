"""FileSink with real encoders and containers: times, pixel formats, colour, alpha, sizes."""

from __future__ import annotations

from fractions import Fraction as F
from pathlib import Path

import av
import numpy as np
import pytest

from streamseg.errors import SinkError, SinkOpenError, SinkWriteError
from streamseg.frames import Frame
from streamseg.sinks import FileSink
from tests.support.clips import draw_frame, make_clip, read_frame_number
from tests.unit.sinks.helpers import (
    closing,
    info_of,
    leftovers,
    listing,
    make_frame,
    play,
    read,
    write,
)

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

VFR = [F(x, 12_800) for x in (0, 512, 1003, 1707, 3000, 3777, 9999, 12_001, 13_333, 20_000)]
NTSC = F(30_000, 1_001)


async def convert(source: Path, target: Path, **options: object) -> FileSink:
    sink = FileSink(target, **options)  # type: ignore[arg-type]
    async with closing(sink):
        await play(source, sink)
    assert leftovers(target.parent) == []
    return sink


@pytest.mark.parametrize(
    ("rate", "time_base", "times"),
    [
        (F(24), F(1, 12_288), None),
        (F(25), F(1, 90_000), None),
        (NTSC, F(1_001, 30_000), None),
        (F(25), F(1, 12_800), VFR),
        (F(25), F(1, 1_000_000), VFR),
    ],
    ids=["24", "25", "29.97", "variable", "microseconds"],
)
@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libsvtav1", "mpeg4"])
async def test_every_frame_keeps_its_exact_time_in_mp4(
    tmp_path: Path, rate: F, time_base: F, times: list[F] | None, encoder: str
) -> None:
    clip = make_clip(
        tmp_path / "in.mp4", frames=10, rate=rate, time_base=time_base, times=times, size=(128, 72)
    )
    sink = await convert(clip.path, tmp_path / "out.mp4", encoder=encoder)
    before, after = read(clip.path), read(tmp_path / "out.mp4")
    assert after.times == before.times
    assert after.decoded == before.times
    assert sink.statistics().accepted == sink.statistics().written == 10


@pytest.mark.parametrize(
    "extension", ["mp4", "mov", "mkv", "webm", "avi", "ts", "flv", "gif", "m4v", "mts", "m2ts"]
)
async def test_every_container_keeps_the_times_it_can(tmp_path: Path, extension: str) -> None:
    clip = make_clip(
        tmp_path / "in.mp4", frames=12, rate=25, time_base=F(1, 12_800), size=(128, 72)
    )
    await convert(clip.path, tmp_path / f"out.{extension}")
    after = read(tmp_path / f"out.{extension}")
    assert after.decoded == list(clip.times), "40 ms are exact in all of these"
    assert after.times == list(clip.times)


@pytest.mark.parametrize("extension", ["mkv", "webm", "ts"])
async def test_variable_times_are_rounded_to_the_containers_tick_only(
    tmp_path: Path, extension: str
) -> None:
    clip = make_clip(
        tmp_path / "in.mp4", times=VFR, frames=10, time_base=F(1, 12_800), size=(128, 72)
    )
    await convert(clip.path, tmp_path / f"out.{extension}")
    after = read(tmp_path / f"out.{extension}")
    tick = F(1, 90_000) if extension == "ts" else F(1, 1_000)
    assert len(after.decoded) == len(VFR)
    assert max(abs(a - b) for a, b in zip(after.times, VFR, strict=True)) <= tick / 2


@pytest.mark.parametrize(
    ("encoder", "extension"),
    [
        ("libx264", "mkv"), ("libx264", "ts"), ("libx264", "mov"),
        ("libx265", "mkv"), ("libx265", "ts"),
        ("libvpx-vp9", "mp4"), ("libvpx", "webm"), ("libsvtav1", "webm"), ("libsvtav1", "mkv"),
        ("mpeg2video", "ts"), ("mpeg2video", "mp4"), ("mpeg4", "avi"), ("mjpeg", "mov"),
        ("mjpeg", "avi"), ("prores_ks", "mov"), ("ffv1", "mkv"), ("ffv1", "avi"), ("dnxhd", "mov"),
        ("huffyuv", "avi"), ("png", "mov"), ("qtrle", "mov"),
    ],
)  # fmt: skip
async def test_encoder_in_container_gives_each_picture_once_in_order(
    tmp_path: Path, encoder: str, extension: str
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=8, time_base=F(1, 90_000), size=(320, 180))
    await convert(clip.path, tmp_path / f"out.{extension}", encoder=encoder)
    with av.open(str(tmp_path / f"out.{extension}")) as container:
        assert [read_frame_number(f) for f in container.decode(video=0)] == list(range(8))
    assert read(tmp_path / f"out.{extension}").decoded == list(clip.times)


@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libvpx-vp9", "mpeg4"])
async def test_last_frame_keeps_its_duration(tmp_path: Path, encoder: str) -> None:
    ticks = [0, 512, 600, 2_000, 2_048, 5_000, 5_100, 7_000, 7_512, 9_000]
    frames = [
        make_frame(i, t, duration=(ticks[i + 1] if i < 9 else 12_345) - t)
        for i, t in enumerate(ticks)
    ]
    async with closing(FileSink(tmp_path / "out.mp4", encoder=encoder)) as sink:
        await write(sink, frames)
    assert read(tmp_path / "out.mp4").end == F(12_345, 12_800)


async def test_incoming_frames_are_not_changed(tmp_path: Path) -> None:
    frame = make_frame(3, 12_345, duration=77)
    frame.video.pict_type = 1
    async with closing(FileSink(tmp_path / "out.avi")) as sink:
        await write(sink, [frame])
    video = frame.video
    assert (video.pts, video.time_base, video.duration, video.pict_type) == (
        12_345, F(1, 12_800), 77, 1,
    )  # fmt: skip


@pytest.mark.parametrize("start_s", [F(1, 128), F(5, 2), F(59)])
async def test_a_late_start_is_kept(tmp_path: Path, start_s: F) -> None:
    clip = make_clip(
        tmp_path / "in.mkv", frames=6, start_s=start_s, time_base=F(1, 1_000), audio_tracks=1
    )
    await convert(clip.path, tmp_path / "out.mp4")
    before, after = read(clip.path), read(tmp_path / "out.mp4")
    assert after.times == after.decoded == before.times
    assert [round(t, 3) for t in after.side_times[1]] == before.side_times[1]


async def test_a_broadcast_start_is_moved_by_whole_seconds_for_all_streams(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.ts", frames=6, start_s=F(4_000) + F(1, 4), audio_tracks=1)
    sink = await convert(clip.path, tmp_path / "out.mp4")
    before, after = read(clip.path), read(tmp_path / "out.mp4")
    offset = before.times[0] - after.times[0]
    assert offset.denominator == 1
    assert offset >= 4_000
    assert after.times == [time - offset for time in before.times]
    gap = [t - offset - u for t, u in zip(before.side_times[1], after.side_times[1], strict=True)]
    assert max(map(abs, gap)) < F(1, 40_000)
    assert any("all streams start" in line for line in sink.notices)


async def test_negative_times_lose_no_frame(tmp_path: Path) -> None:
    frames = [make_frame(i, i * 512 - 1_024) for i in range(6)]
    async with closing(FileSink(tmp_path / "out.mp4")) as sink:
        await write(sink, frames)
    assert read(tmp_path / "out.mp4").decoded == [F(i, 25) for i in range(6)]
    assert any("starts at -0.080 s" in line for line in sink.notices)


async def test_equal_and_backward_times_lose_no_frame(tmp_path: Path) -> None:
    frames = [make_frame(i, p) for i, p in enumerate([0, 512, 512, 400, 1_024])]
    async with closing(FileSink(tmp_path / "out.mp4")) as sink:
        await write(sink, frames)
    ticks = [time * 12_800 for time in read(tmp_path / "out.mp4").decoded]
    assert ticks == [0, 512, 513, 514, 1_024]
    assert any(line.startswith("2 frames") for line in sink.notices)


# --- pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixel_format", "extension", "encoder", "expected"),
    [
        ("yuv420p", "mp4", None, "yuv420p"),
        ("yuvj420p", "mp4", None, "yuvj420p"),
        ("yuv420p10le", "mp4", None, "yuv420p10le"),
        ("yuv420p10le", "mp4", "libx265", "yuv420p10le"),
        ("yuv422p", "mp4", None, "yuv422p"),
        ("nv12", "mp4", None, "yuv420p"),
        ("rgb24", "mp4", None, "yuv420p"),
        ("bgr0", "mp4", None, "yuv420p"),
        ("gray", "mp4", None, "yuvj420p"),
        ("rgb24", "webm", None, "yuv420p"),
        ("yuv422p10le", "mp4", "libsvtav1", "yuv420p10le"),
        ("yuv420p", "mov", "prores_ks", "yuv422p10le"),
        ("gray", "mkv", "ffv1", "gray"),
    ],
)
async def test_pixel_format_is_kept_or_converted_to_what_plays(
    tmp_path: Path, pixel_format: str, extension: str, encoder: str | None, expected: str
) -> None:
    frames = [make_frame(i, pixel_format=pixel_format) for i in range(3)]
    target = tmp_path / f"out.{extension}"
    async with closing(FileSink(target, encoder=encoder)) as sink:
        await write(sink, frames, info_of(pixel_format=pixel_format))
    after = read(target)
    assert after.pixel_format == expected
    lossy = ("rgb" in pixel_format or "bgr" in pixel_format) or "svt" in str(encoder)
    assert any("is stored as" in line for line in sink.notices) == lossy


@pytest.mark.parametrize(("height", "matrix"), [(480, 6), (720, 1)])
async def test_rgb_colours_come_back(tmp_path: Path, height: int, matrix: int) -> None:
    picture = np.zeros((height, 256, 3), np.uint8)
    colours = [(200, 30, 40), (30, 190, 60), (40, 50, 210), (230, 230, 230)]
    for column, colour in enumerate(colours):
        picture[:, column * 64 : column * 64 + 64] = colour
    video = av.VideoFrame.from_ndarray(picture, format="rgb24")
    video.pts, video.time_base = 0, F(1, 25)
    target = tmp_path / "out.mp4"
    async with closing(FileSink(target, crf=1)) as sink:
        await write(sink, [Frame(video, 0, 0.0)], info_of(pixel_format="rgb24"))
    after = read(target)
    assert (after.colour.space, after.colour.range) == (matrix, 1)
    with av.open(str(target)) as container:
        decoded = next(container.decode(video=0)).to_ndarray(format="rgb24")
    for column, colour in enumerate(colours):
        assert np.abs(decoded[height // 2, column * 64 + 32].astype(int) - colour).max() <= 4


@pytest.mark.parametrize("extension", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize(
    ("colour", "pixel_format"),
    [((1, 1, 1, 1), "yuv420p"), ((1, 2, 1, 1), "yuvj420p"), ((6, 1, 6, 6), "yuv420p"),
     ((9, 1, 9, 16), "yuv420p10le")],
)  # fmt: skip
async def test_colour_description_and_aspect_ratio_survive(
    tmp_path: Path, extension: str, colour: tuple[int, int, int, int], pixel_format: str
) -> None:
    clip = make_clip(
        tmp_path / "in.mp4", frames=4, colour=colour, pix_fmt=pixel_format,
        sample_aspect_ratio=F(4, 3), size=(160, 96),
    )  # fmt: skip
    await convert(clip.path, tmp_path / f"out.{extension}")
    after = read(tmp_path / f"out.{extension}")
    found = after.colour
    assert (found.space, found.range, found.primaries, found.transfer) == colour
    assert after.pixel_format == pixel_format
    assert after.aspect == F(4, 3)


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
async def test_hdr10_metadata_survives(tmp_path: Path, encoder: str) -> None:
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    params = f"log-level=none:master-display={display}:max-cll=1000,400"
    clip = make_clip(
        tmp_path / "in.mp4", frames=3, codec="libx265", pix_fmt="yuv420p10le",
        colour=(9, 1, 9, 16), options={"x265-params": params}, size=(128, 96),
    )  # fmt: skip
    await convert(clip.path, tmp_path / "out.mp4", encoder=encoder)

    def side_data(path: Path) -> dict[str, bytes]:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            return {
                d.type.name: bytes(d)  # type: ignore[call-overload]
                for d in frame.side_data
                if d.type.name in {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"}
            }

    assert len(side_data(clip.path)) == 2
    assert side_data(tmp_path / "out.mp4") == side_data(clip.path)


async def test_full_range_samples_are_not_squeezed(tmp_path: Path) -> None:
    video = av.VideoFrame(64, 64, "yuvj420p")
    video.planes[0].update(bytes([0] * 32 + [255] * 32) * (video.planes[0].buffer_size // 64))
    for plane in video.planes[1:]:
        plane.update(b"\x80" * plane.buffer_size)
    video.pts, video.time_base = 0, F(1, 25)
    for name, encoder in (("a.mp4", None), ("b.mkv", "ffv1"), ("c.mp4", "libvpx-vp9")):
        async with closing(
            FileSink(tmp_path / name, crf=None if encoder else 1, encoder=encoder)
        ) as sink:
            await write(sink, [Frame(video, 0, 0.0)])
        assert read(tmp_path / name).colour.range == 2
        with av.open(str(tmp_path / name)) as container:
            luma = next(container.decode(video=0)).to_ndarray()[:64]
        assert luma[:, :24].max() < 6
        assert luma[:, 40:].min() > 249


@pytest.mark.parametrize(
    ("extension", "pixel_format", "codec"),
    [("webm", "yuva420p", "vp9"), ("mov", "yuva420p", "prores"), ("mkv", "yuva420p", "ffv1"),
     ("mov", "yuva444p10le", "prores"), ("webm", "rgba", "vp9"), ("mkv", "rgba", "ffv1")],
)  # fmt: skip
async def test_alpha_comes_back(
    tmp_path: Path, extension: str, pixel_format: str, codec: str
) -> None:
    rgba = np.full((96, 128, 4), 120, np.uint8)
    rgba[:, :64, 3], rgba[:, 64:, 3] = 255, 0
    video = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pixel_format)
    video.pts, video.time_base = 0, F(1, 25)
    target = tmp_path / f"out.{extension}"
    async with closing(FileSink(target)) as sink:
        await write(sink, [Frame(video, 0, 0.0)], info_of(pixel_format=pixel_format))
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.codec.canonical_name == codec
        packet = next(p for p in container.demux(stream) if p.size)
        if codec == "vp9":  # FFmpeg's own decoder ignores alpha
            decoder = av.CodecContext.create("libvpx-vp9", "r")
            decoded = decoder.decode(packet) + decoder.decode(None)  # type: ignore[attr-defined]
        else:
            decoded = packet.decode() + stream.codec_context.decode(None)
        alpha = decoded[0].to_ndarray(format="rgba")[..., 3]
    assert alpha[:, :56].min() > 250
    assert alpha[:, 72:].max() < 5


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.ts", "out.jpg"])
async def test_alpha_is_refused_where_it_would_be_lost(tmp_path: Path, name: str) -> None:
    async with closing(FileSink(tmp_path / name)) as sink:
        await sink.open(info_of())
        await sink.send(make_frame(0, pixel_format="yuva420p"))
        with pytest.raises(SinkOpenError, match=r"\.webm"):
            await sink.finish()
    async with closing(FileSink(tmp_path / name)) as sink:  # an effect made it opaque
        await write(sink, [make_frame(0)], info_of(pixel_format="yuva420p"))
    async with closing(FileSink(tmp_path / "o.webm", encoder="libsvtav1")) as other:
        await other.open(info_of())
        await other.send(make_frame(0, pixel_format="yuva420p"))
        with pytest.raises(SinkOpenError, match="no alpha"):
            await other.finish()


@pytest.mark.parametrize(
    "encoder", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg4", "ffv1"]
)
async def test_odd_sizes_lose_nothing(tmp_path: Path, encoder: str) -> None:
    video = draw_frame(1234, 161, 91)
    target = tmp_path / "out.mkv"
    async with closing(FileSink(target, encoder=encoder)) as sink:
        await write(sink, [Frame(video, 0, 0.0)])
    with av.open(str(target)) as container:
        decoded = next(container.decode(video=0))
        padded = encoder in {"libx264", "libx265", "libsvtav1"}
        assert (decoded.width, decoded.height) == ((162, 92) if padded else (161, 91))
        luma, source = decoded.to_ndarray(format="gray"), video.to_ndarray(format="gray")
        assert np.abs(luma[:91, :161].astype(int) - source).mean() < 3
        if padded:
            assert np.abs(luma[:91, 161].astype(int) - source[:, 160]).mean() < 6
            assert np.abs(luma[91, :161].astype(int) - source[90]).mean() < 6
    assert any("161x91 is stored as 162x92" in line for line in sink.notices) == padded


async def test_a_change_of_size_on_the_way_is_fitted_to_the_first(tmp_path: Path) -> None:
    frames = [
        make_frame(0),
        make_frame(1, width=80, height=90),
        make_frame(2, pixel_format="rgb24"),
    ]
    async with closing(FileSink(tmp_path / "out.mp4")) as sink:
        await write(sink, frames)
    after = read(tmp_path / "out.mp4")
    assert (len(after.decoded), after.size) == (3, (64, 48))
    assert sum("fitted to the first" in line for line in sink.notices) == 2


@pytest.mark.parametrize(
    ("width", "height", "encoder"),
    [(1, 1, None), (2, 2, None), (16, 16, "libx265"), (8, 8, "libvpx-vp9"), (9, 9, "mpeg4")],
)
async def test_tiny_pictures_work_or_are_refused_in_one_line(
    tmp_path: Path, width: int, height: int, encoder: str | None
) -> None:
    sink = FileSink(tmp_path / "out.mp4", encoder=encoder)
    async with closing(sink):
        await sink.open(info_of(width=width, height=height))
        try:
            await sink.send(make_frame(0, width=width, height=height))
            await sink.finish()
            await sink.commit()
        except SinkError as exc:
            line = str(exc)
        else:
            line = ""
            assert len(read(tmp_path / "out.mp4").decoded) == 1
    assert "\n" not in line


# --- encoders ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "software"),
    [("h264_nvenc", "libx264"), ("hevc_qsv", "libx265"), ("av1_nvenc", "libsvtav1")],
)
async def test_missing_hardware_falls_back_to_the_software_encoder_and_says_so(
    tmp_path: Path, encoder: str, software: str
) -> None:
    async with closing(FileSink(tmp_path / "out.mp4", encoder=encoder)) as sink:
        await write(sink, [make_frame(i, width=128, height=128) for i in range(3)])
    assert [line for line in sink.notices if software in line and encoder in line]
    assert len(read(tmp_path / "out.mp4").decoded) == 3


async def test_hardware_options_are_not_given_to_the_software_encoder(tmp_path: Path) -> None:
    sink = FileSink(
        tmp_path / "out.mp4",
        encoder="h264_nvenc",
        preset="p7",
        encoder_options={"rc": "vbr"},
        crf=19,
    )
    async with closing(sink):
        await write(sink, [make_frame(0)])
    assert any("with its own preset and options" in line for line in sink.notices)


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_streams_shorter_than_the_encoders_delay(tmp_path: Path, count: int) -> None:
    for attempt in range(8):  # x265 leaves memory as it was in a field: fails now and then
        target = tmp_path / f"{attempt}.mp4"
        async with closing(FileSink(target, encoder="libx265")) as sink:
            await write(sink, [make_frame(i, duration=512) for i in range(count)])
        after = read(target)
        assert after.decoded == [F(i, 25) for i in range(count)]
        assert after.end == F(count, 25)


@pytest.mark.parametrize("extension", ["mp4", "mov"])
async def test_hevc_has_the_tag_that_all_players_take(tmp_path: Path, extension: str) -> None:
    target = tmp_path / f"out.{extension}"
    async with closing(FileSink(target, encoder="libx265")) as sink:
        await write(sink, [make_frame(0)])
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.mp4", {"encoder": "libx246"}, "did you mean .*libx264"),
        ("out.mp4", {"encoder": "aac"}, "encodes audio"),
        ("out.mp4", {"encoder": "libvpx"}, r"does not hold vp8.*\.webm"),
        ("out.webm", {"encoder": "libx264"}, r"does not hold h264.*\.mp4"),
        ("out.xyz", {}, r"unknown extension '.xyz'.*\.mp4"),
        ("out", {}, "no extension"),
        ("out.mkv", {"encoder": "ffv1", "crf": 3}, "no quality setting"),
        ("out.mp4", {"preset": "nonsense"}, "no preset 'nonsense'; it has: ultrafast"),
        ("out.mp4", {"encoder": "libx265", "preset": "nonsense"}, "no preset 'nonsense'"),
        ("out.mkv", {"encoder": "libsvtav1", "preset": "nonsense"}, "no preset 'nonsense'"),
        ("out.mp4", {"encoder_options": {"tune": "nonsense"}}, "no tune 'nonsense'"),
        ("out.mp4", {"encoder_options": {"profile": "nonsense"}}, "no profile 'nonsense'"),
    ],
)
async def test_wrong_options_are_refused_at_open(
    tmp_path: Path,
    name: str,
    options: dict[str, object],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with closing(FileSink(tmp_path / name, **options)) as sink:  # type: ignore[arg-type]
        with pytest.raises(SinkOpenError, match=message):
            await sink.open(info_of())
    assert listing(tmp_path) == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_options": {"nonsense": "1"}}, "no option 'nonsense'"),
        ({"encoder_options": {"rc-lookahead": "warp"}}, "refuses 64x48"),
        ({"encoder": "mpeg4", "preset": "fast"}, "no option 'preset'"),
    ],
)
async def test_wrong_encoder_options_are_refused_with_the_first_picture(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    sink = FileSink(tmp_path / "out.mp4", **options)  # type: ignore[arg-type]
    async with closing(sink):
        await sink.open(info_of())
        await sink.send(make_frame(0))
        with pytest.raises(SinkOpenError, match=message):
            await sink.finish()
    assert listing(tmp_path) == []


async def test_encoder_options_and_crf_reach_the_encoder(tmp_path: Path) -> None:
    sizes = []
    for crf in (10, 45):
        frames = [Frame(draw_frame(i), i, 0.0) for i in range(10)]
        async with closing(FileSink(tmp_path / f"{crf}.mp4", crf=crf, preset="ultrafast")) as sink:
            await write(sink, frames)
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


async def test_nothing_reaches_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for encoder in ("libx264", "libx265", "libsvtav1", "h264_nvenc", "libvpx-vp9", "mpeg4"):
        async with closing(FileSink(tmp_path / f"{encoder}.mp4", encoder=encoder)) as sink:
            await write(sink, [make_frame(i, width=128, height=128) for i in range(3)])
    assert capfd.readouterr() == ("", "")


# --- pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("extension", "pixel_format"), [("png", "rgb24"), ("jpg", "yuvj420p")])
async def test_numbered_pictures(tmp_path: Path, extension: str, pixel_format: str) -> None:
    frames = [Frame(draw_frame(7 + i), i, 0.0) for i in range(5)]
    async with closing(FileSink(tmp_path / f"p_%03d.{extension}")) as sink:
        await write(sink, frames)
    names = listing(tmp_path)
    assert names == [f"p_{i:03d}.{extension}" for i in range(5)]
    for number, name in enumerate(names):
        with av.open(str(tmp_path / name)) as container:
            picture = next(container.decode(video=0))
        assert (read_frame_number(picture), picture.format.name) == (7 + number, pixel_format)


async def test_png_keeps_alpha_and_depth(tmp_path: Path) -> None:
    for source, stored in (
        ("rgba", "rgba"),
        ("yuva420p", "rgba"),
        ("gray", "gray"),
        ("gbrp10le", "rgb48be"),
    ):
        target = tmp_path / f"{source}.png"
        async with closing(FileSink(target)) as sink:
            await write(sink, [make_frame(0, pixel_format=source)], info_of(pixel_format=source))
        with av.open(str(target)) as container:
            assert next(container.decode(video=0)).format.name == stored


async def test_one_picture_holds_one_frame(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "one.png")
    async with closing(sink):
        await sink.open(info_of())
        await sink.send(make_frame(0))
        await sink.send(make_frame(1))
        with pytest.raises(SinkWriteError, match=r"one_%05d\.png"):
            await sink.finish()
    assert listing(tmp_path) == []


async def test_existing_pictures_are_not_replaced_unless_asked(tmp_path: Path) -> None:
    old = tmp_path / "p_1.png"
    old.write_bytes(b"old")
    async with closing(FileSink(tmp_path / "p_%d.png")) as sink:
        with pytest.raises(SinkOpenError, match=r"p_1\.png exists; use --overwrite"):
            await sink.open(info_of())
    (tmp_path / "p_9.png").write_bytes(b"older")
    async with closing(FileSink(tmp_path / "p_%d.png", overwrite=True)) as sink:
        await write(sink, [make_frame(i) for i in range(3)])
    assert old.read_bytes() != b"old"
    assert (tmp_path / "p_9.png").read_bytes() == b"older"
    assert any("1 pictures of an earlier" in line for line in sink.notices)


async def test_pictures_are_all_there_or_none(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "p_%d.png")
    async with closing(sink):
        await sink.open(info_of())
        for number in range(3):
            await sink.send(make_frame(number))
        (tmp_path / "p_2.png").write_bytes(b"somebody else")
        await sink.finish()
        with pytest.raises(SinkWriteError, match="somebody"):
            await sink.commit()
    assert listing(tmp_path) == ["p_2.png"]
    assert (tmp_path / "p_2.png").read_bytes() == b"somebody else"


# --- real media -------------------------------------------------------------------------------


async def test_real_clip_with_sound(tmp_path: Path, assets: Path) -> None:
    source = assets / "media" / "bt709_full_range.mp4"
    await convert(source, tmp_path / "out.mp4", preset="ultrafast")
    before, after = read(source, decode=False), read(tmp_path / "out.mp4", decode=False)
    assert after.times == before.times
    assert after.colour == before.colour
    assert after.payloads.get(1) == before.payloads.get(1)
