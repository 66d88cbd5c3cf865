"""Backgrounds of ``replace``."""

from __future__ import annotations

import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from streamseg.effects.registry import create_effect
from streamseg.errors import ConfigError
from streamseg.frames import plane_view

from .pictures import frame, mask_left, picture, planes, segmentation

NOBODY = segmentation(np.zeros((8, 8), np.float32))


def save_png(path, rgb):
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as box:
        stream = box.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = rgb.shape[1], rgb.shape[0], "rgb24"
        for packet in stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")):
            box.mux(packet)
        for packet in stream.encode(None):
            box.mux(packet)
    return str(path)


def save_video(path, levels, rate=10):
    """A lossless video of flat pictures with these luma levels."""
    with av.open(str(path), "w") as box:
        stream = box.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for number, level in enumerate(levels):
            video = picture(width=64, height=32)
            np.frombuffer(video.planes[0], np.uint8)[:] = level
            for plane in video.planes[1:]:
                np.frombuffer(plane, np.uint8)[:] = 128
            video.pts, video.time_base = number, Fraction(1, rate)
            for packet in stream.encode(video):
                box.mux(packet)
        for packet in stream.encode(None):
            box.mux(packet)
    return str(path)


def shown(effect, time_s, **options):
    """Luma of the upper left sample of an all-background frame at this time."""
    source = frame(**options)
    source.video.pts, source.video.time_base = round(time_s * 1000), Fraction(1, 1000)
    luma = int(planes(effect.apply(source, NOBODY).video)[0][2, 2])
    return round(luma / 30) * 30  # another matrix: a level may be lost


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le", "yuvj420p", "nv12"])
@pytest.mark.parametrize("span", [1, 2])
def test_a_picture_keeps_its_colours(tmp_path, pixel_format, span):
    rgb = np.empty((90, 120, 3), np.uint8)
    rgb[:, :60], rgb[:, 60:] = (200, 40, 30), (20, 90, 220)
    effect = create_effect("replace", {"background": save_png(tmp_path / "b.png", rgb)})
    video = picture(pixel_format, 160, 120)
    video.color_range = 2 if pixel_format == "yuvj420p" else span
    out = effect.apply(frame(video), NOBODY).video
    plain = out
    if pixel_format == "yuvj420p":
        plain = av.VideoFrame(160, 120, "yuv420p")
        plain.colorspace, plain.color_range = out.colorspace, 2
        for number, plane in enumerate(planes(out)):
            plane_view(plain, number)[:] = plane
    back = plain.reformat(format="rgb24", dst_color_range=2).to_ndarray().astype(int)
    assert np.abs(back[:, :70] - (200, 40, 30)).max() <= 6
    assert np.abs(back[:, 90:] - (20, 90, 220)).max() <= 6


@pytest.mark.parametrize("size", [(160, 90), (90, 160), (161, 91), (7, 100)])
@pytest.mark.parametrize("fit", ["cover", "contain"])
def test_cover_fills_and_contain_shows_all_on_black(tmp_path, fit, size):
    rgb = np.full((60, 60, 3), 255, np.uint8)
    effect = create_effect("replace", {"background": save_png(tmp_path / "b.png", rgb), "fit": fit})
    out = planes(effect.apply(frame(width=size[0], height=size[1]), NOBODY).video)[0]
    white = out > 200
    if fit == "cover":
        assert white.all()
    else:
        side = min(size)
        assert abs(int(white.sum()) - side * side) <= side * 8 + 8
        assert white[size[1] // 2, size[0] // 2]
        assert out.min() == 16


# EXIF orientation -> how a picture that shall be seen upright is stored (TIFF 6.0, tag 0x0112)
STORED = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.swapaxes(0, 1),
    6: lambda seen: np.rot90(seen, 1),
    7: lambda seen: np.rot90(seen[::-1], 1),
    8: lambda seen: np.rot90(seen, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_a_photograph_is_upright(tmp_path, orientation):
    path = tmp_path / "b.jpg"
    seen = np.zeros((96, 64, 3), np.uint8)
    seen[:48, :32], seen[:48, 32:], seen[48:, :32] = 240, 160, 80
    stored = np.ascontiguousarray(STORED[orientation](seen))
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as box:
        stream = box.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = *stored.shape[:2], "yuv420p"
        stream.codec_context.color_range = 2
        video = av.VideoFrame.from_ndarray(stored, "rgb24")
        video = video.reformat(format="yuv420p", dst_color_range=2)
        for packet in [*stream.encode(video), *stream.encode(None)]:
            box.mux(packet)
    tiff = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 1, orientation) + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    plain = path.read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    path.write_bytes(plain[:2] + segment + plain[2:])
    code = """
import gc, sys
import numpy as np
from streamseg.effects.registry import create_effect
from tests.unit.effects.pictures import frame, planes, segmentation
effect = create_effect("replace", {"background": sys.argv[1]})
nobody = segmentation(np.zeros((8, 8), np.float32))
luma = planes(effect.apply(frame(width=64, height=96), nobody).video)[0]
print(*[int(luma[y, x]) for y in (20, 76) for x in (14, 50)])
del effect
for _ in range(3):
    gc.collect()
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    wanted = [16 + level * 219 // 255 for level in (240, 160, 80, 0)]
    assert np.abs(np.subtract([int(n) for n in run.stdout.split()], wanted)).max() <= 6


@pytest.mark.parametrize("kind", ["rgba", "ya8", "rgba64be"])
def test_a_transparent_picture_is_laid_over_black(tmp_path, kind):
    path = tmp_path / "b.png"
    rgba = np.full((64, 96, 4), 255, np.uint8)
    rgba[:, :48, 3] = 0
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as box:
        stream = box.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 96, 64, kind
        video = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format=kind)
        for packet in [*stream.encode(video), *stream.encode(None)]:
            box.mux(packet)
    effect = create_effect("replace", {"background": str(path)})
    luma = planes(effect.apply(frame(), NOBODY).video)[0]
    assert set(np.unique(luma[:, :46])) == {16}
    assert luma[:, 50:].min() >= 234


@pytest.mark.parametrize("name", ["bg:1.png", "http:b.png", "-b.png", "b%d.png", "b%03d:x.png"])
def test_odd_names_are_files(tmp_path, monkeypatch, name):
    save_png(tmp_path / "b.png", np.full((8, 8, 3), 255, np.uint8))
    (tmp_path / "b.png").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert shown(create_effect("replace", {"background": name}), 0) == 240


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n"),
        ("b.ffconcat", "ffconcat version 1.0\nfile b.png\n"),
        ("b.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
         "m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"),
    ],
)  # fmt: skip
def test_a_playlist_is_refused(tmp_path, name, text):
    save_png(tmp_path / "b.png", np.full((8, 8, 3), 255, np.uint8))
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="is a playlist"):
        create_effect("replace", {"background": str(tmp_path / name)})


def test_a_video_runs_at_its_own_rate_and_starts_over(tmp_path):
    levels = [30, 60, 90, 120, 150]
    path = save_video(tmp_path / "b.mkv", levels)
    effect = create_effect("replace", {"background": path})
    times = [number / 20 for number in range(60)]  # the pipeline is twice as fast
    seen = [shown(effect, 100 + at) for at in times]
    assert seen == [levels[int(at * 10 + 1e-6) % 5] for at in times]
    effect.close()
    assert shown(effect, 500.0) == 30  # usable after close, from the start


def test_a_video_skips_with_the_pipeline_and_survives_jumps(tmp_path):
    levels = [30, 60, 90, 120, 150]
    effect = create_effect("replace", {"background": save_video(tmp_path / "b.mkv", levels)})
    assert shown(effect, 0.0) == 30
    assert shown(effect, 0.3) == 120
    assert shown(effect, 0.7) == 90
    assert shown(effect, 90_000.0) in levels  # must not decode 900000 frames
    now = shown(effect, 90_000.0)
    assert shown(effect, 3.0) in levels
    assert now in levels
    later = [shown(effect, 3.0 + number / 10) for number in range(5)]
    assert sorted(later) == levels


def test_the_edge_shows_little_of_the_old_background():
    video = picture(width=160, height=96)
    for plane, level in zip(video.planes, (150, 44, 21), strict=True):  # strong green
        np.frombuffer(plane, np.uint8)[:] = level
    soft = np.clip((np.linspace(1.5, -0.5, 64)), 0, 1).astype(np.float32)
    mask = np.repeat(soft[None], 32, axis=0)
    out = create_effect("replace", {"background": "white"}).apply(frame(video), segmentation(mask))
    row = planes(out.video)[1][20].astype(int)
    full = (row == 44).sum()
    touched = ((row > 44) & (row < 128)).sum()
    assert full >= 20
    assert touched <= 20
    assert (np.diff(row) >= 0).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no/such/file.png", "neither a file that exists nor a colour"),
        ("whit", "did you mean 'white'"),
        ("#12345", "#rrggbb"),
        ("#gggggg", "#rrggbb"),
        ("", "must be a colour or the path"),
        (7, "must be a colour or the path"),
    ],
)
def test_what_is_no_background_is_a_config_error(value, message):
    with pytest.raises(ConfigError, match=message):
        create_effect("replace", {"background": value})


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_an_unreadable_file_is_a_config_error_of_one_line(tmp_path, content):
    path = tmp_path / "b.png"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"b\.png") as caught:
        create_effect("replace", {"background": str(path)})
    assert "\n" not in str(caught.value)


def test_a_sound_file_is_no_background(tmp_path):
    path = tmp_path / "b.wav"
    with av.open(str(path), "w") as box:
        stream = box.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        for packet in [*stream.encode(sound), *stream.encode(None)]:
            box.mux(packet)
    with pytest.raises(ConfigError, match="no picture"):
        create_effect("replace", {"background": str(path)})


def test_a_path_is_a_file_even_if_it_reads_like_a_colour(tmp_path, monkeypatch):
    save_png(tmp_path / "b.png", np.full((8, 8, 3), 255, np.uint8))
    (tmp_path / "b.png").rename(tmp_path / "red")
    monkeypatch.chdir(tmp_path)
    white = create_effect("replace", {"background": Path("red")})
    assert shown(white, 0) == 240
    assert shown(create_effect("replace", {"background": "red"}), 0) == 60


def test_the_background_is_not_written_into_the_frame():
    source = frame()
    before = planes(source.video)
    create_effect("replace").apply(source, segmentation(mask_left()))
    for left, right in zip(before, planes(source.video), strict=True):
        assert np.array_equal(left, right)
