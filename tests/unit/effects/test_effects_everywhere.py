"""What every effect must do with every pixel format and size."""

from __future__ import annotations

import av
import av.logging
import numpy as np
import pytest

from streamseg.effects.formats import alpha_format, working_format
from streamseg.effects.registry import EFFECTS, create_effect
from streamseg.errors import EffectError
from streamseg.frames import Colour

from .pictures import flat, frame, mask_left, picture, planes, segmentation

FORMATS = [
    "yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p",
    "yuvj420p", "yuvj422p", "yuvj444p",
    "yuv420p9le", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "yuv444p16le",
    "gray", "gray10le", "gray12le", "gray16le", "ya8", "monob",
    "nv12", "nv21", "nv16", "nv24", "p010le", "p016le", "yuyv422", "uyvy422", "yuv420p10be",
    "rgb24", "bgr24", "rgba", "bgra", "argb", "0rgb", "gbrp", "gbrp10le", "rgb48le", "pal8",
    "yuva420p", "yuva444p10le",
]  # fmt: skip
ACTIVE = [name for name in EFFECTS if name != "none"]


@pytest.fixture
def ffmpeg_log():
    """What FFmpeg logs at warning level or above."""
    old = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    with av.logging.Capture() as lines:
        yield lines
    av.logging.set_level(old)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("name", ACTIVE)
def test_output_is_in_the_declared_format_with_the_frames_own_stamps(
    name, pixel_format, ffmpeg_log
):
    source = frame(pixel_format=pixel_format)
    tags = Colour.of(source.video)
    before = [bytes(plane) for plane in source.video.planes]
    effect = create_effect(name)
    for given in (segmentation(mask_left()), None):
        out = effect.apply(source, given)
        assert out.pixel_format == effect.output_format(pixel_format)
        assert ("a" in out.pixel_format.removeprefix("gray")) == effect.output_has_alpha
        assert (out.width, out.height) == (96, 64)
        assert (out.pts, out.time_base, out.video.duration) == (1234, source.time_base, 512)
        assert (out.index, out.captured_s) == (7, 3.5)
        if name != "mask" and pixel_format.startswith(("yuv", "nv", "p0", "uyvy")):
            colour = Colour.of(out.video)
            expected = 2 if pixel_format.startswith("yuvj") else tags.range
            assert (colour.space, colour.primaries, colour.transfer) == (
                tags.space, tags.primaries, tags.transfer,
            )  # fmt: skip
            assert colour.range in (expected, tags.range)
    assert [bytes(plane) for plane in source.video.planes] == before
    assert Colour.of(source.video) == tags
    assert list(ffmpeg_log) == []
    effect.close()


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 1), (1, 3), (3, 2), (5, 5), (16, 16), (17, 9), (321, 241), (63, 200)]
)
@pytest.mark.parametrize("name", ACTIVE)
def test_any_size_works(name, size):
    effect = create_effect(name)
    for pixel_format in ("yuv420p", "yuv422p10le", "yuv411p", "yuv410p", "gray", "rgb24", "nv12"):
        source = frame(pixel_format=pixel_format, width=size[0], height=size[1])
        for given in (segmentation(mask_left()), segmentation(mask_left(300, 200)), None):
            out = effect.apply(source, given)
            assert (out.width, out.height) == size
    effect.close()


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuvj420p", "yuv420p10le", "gray"])
@pytest.mark.parametrize("name", ["blur", "replace", "pixelate", "grayscale", "tint", "cutout"])
def test_samples_outside_the_effect_are_bit_exact(name, pixel_format):
    source = frame(pixel_format=pixel_format)
    effect = create_effect(name, {"subject": ("SELFIE",)})
    out = effect.apply(source, segmentation(mask_left()))
    kept = slice(0, 44) if name != "tint" else slice(52, 96)  # the edge is at column 48
    for before, after in zip(planes(source.video), planes(out.video), strict=False):
        part = 96 // before.shape[1]
        columns = slice(kept.start // part, kept.stop // part)
        assert np.array_equal(before[:, columns], after[:, columns])


def test_replaced_samples_hold_nothing_of_the_picture():
    effect = create_effect("replace", {"background": "white"})
    for seed in range(3):
        out = effect.apply(frame(seed=seed), segmentation(mask_left()))
        luma = planes(out.video)[0][:, 52:]
        assert set(np.unique(luma)) == {235}


@pytest.mark.parametrize("name", ["blur", "pixelate", "grayscale", "tint", "replace", "mask"])
@pytest.mark.parametrize(
    "given",
    [
        None,
        segmentation(np.zeros((0, 0), np.float32)),
        segmentation(np.full((8, 8), np.nan, np.float32)),
        segmentation(mask_left(), "BACKGROUND"),
    ],
    ids=["no segmentation", "no pixels", "not a number", "no mask of the subject"],
)
def test_without_a_mask_nothing_of_the_scene_is_seen(name, given):
    # Stripes 8 pixels wide: gone when the blur or the squares are at least as large
    video = flat((30, 128, 128), 640, 640)
    luma = np.frombuffer(video.planes[0], np.uint8).reshape(640, -1)
    luma[:, :640].reshape(640, 40, 16)[:, :, :8] = 200
    options = {} if name == "tint" else {"subject": ("SELFIE",)}
    out = create_effect(name, options).apply(frame(video), given)
    after = planes(out.video)[0][64:-64, 64:-64].astype(int)
    assert np.abs(np.diff(after, axis=1)).max() <= 12
    assert after.std() < 16


def test_cutout_without_a_mask_is_transparent_and_black():
    out = create_effect("cutout").apply(frame(), None)
    luma, *_, alpha = planes(out.video)
    assert alpha.max() == 0
    assert np.unique(luma).tolist() == [16]


def test_no_effect_returns_the_frame_itself():
    source = frame()
    assert create_effect("none").apply(source, None) is source


@pytest.mark.parametrize("name", ["blur", "pixelate", "grayscale", "replace"])
def test_an_all_zero_mask_is_all_background(name):
    nobody = segmentation(np.zeros((32, 32), np.float32))
    source = frame()
    background = create_effect(name).apply(source, nobody)
    assert not np.array_equal(planes(background.video)[1], planes(source.video)[1])
    subject = create_effect(name, {"on": "subject"}).apply(source, nobody)
    for before, after in zip(planes(source.video), planes(subject.video), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("name", ["blur", "pixelate", "grayscale", "replace"])
def test_on_subject_alters_the_people(name):
    source = frame()
    out = create_effect(name, {"on": "subject"}).apply(source, segmentation(mask_left()))
    before, after = planes(source.video)[1], planes(out.video)[1]
    assert np.array_equal(before[:, 26:], after[:, 26:])
    assert not np.array_equal(before[:, :22], after[:, :22])


@pytest.mark.parametrize("name", ["blur", "pixelate", "grayscale", "tint", "cutout", "mask"])
def test_a_picture_that_was_handed_out_never_changes(name):
    effect = create_effect(name)
    seen = []
    for number in range(6):
        given = None if number % 3 == 2 else segmentation(mask_left(share=0.2 + number / 10))
        out = effect.apply(frame(seed=number), given)
        seen.append((out, planes(out.video)))
    for out, then in seen:
        for before, now in zip(then, planes(out.video), strict=True):
            assert np.array_equal(before, now)


def test_frames_may_change_size_and_format_on_the_way():
    effect = create_effect("blur")
    for pixel_format, width in [("yuv420p", 96), ("yuv420p", 64), ("nv12", 64), ("yuv444p", 64)]:
        out = effect.apply(frame(pixel_format=pixel_format, width=width), segmentation(mask_left()))
        assert out.width == width
    effect.close()
    assert effect.apply(frame(), None).width == 96  # usable after close


def test_a_missing_pts_stays_missing():
    source = frame(pts=None)
    assert create_effect("blur").apply(source, segmentation(mask_left())).pts is None


@pytest.mark.parametrize("space", [0, 3, 2, 1, 9, 14])
def test_odd_colour_tags_survive(space):
    source = frame(picture(colour=Colour(space, 0, 2, 2)))
    out = create_effect("blur").apply(source, segmentation(mask_left()))
    assert Colour.of(out.video) == Colour(space, 0, 2, 2)


def test_a_format_without_samples_is_an_effect_error():
    with pytest.raises(EffectError, match="vaapi"):
        working_format("vaapi")
    with pytest.raises(EffectError, match="not known"):
        working_format("yuv999")


def test_working_formats():
    assert working_format("nv12") == "yuv420p"
    assert working_format("p010le") == "yuv420p10le"
    assert working_format("bgra") == "yuv420p"
    assert working_format("gray") == "gray"
    assert working_format("gray10le", coloured=True) == "yuv420p10le"
    assert working_format("yuva444p10le") == "yuv444p10le"
    assert alpha_format("yuv422p10le") == "yuva422p10le"
    assert alpha_format("yuvj420p") == "yuva420p"
    assert alpha_format("yuv420p12le") == "yuva420p10le"


def test_memory_stays_level():
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    effects = [create_effect(name) for name in ACTIVE]
    sources = [frame(width=320, height=180, seed=seed) for seed in range(2)]
    level = 0
    for number in range(500):
        for effect in effects:
            effect.apply(sources[number % 2], segmentation(mask_left()) if number % 5 else None)
        if number == 100:
            level = process.memory_info().rss
    assert process.memory_info().rss - level < 12_000_000
