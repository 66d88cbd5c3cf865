"""What each effect is for."""

from __future__ import annotations

import itertools

import av
import cv2
import numpy as np
import pytest

from streamseg.effects.colours import class_colour, parse_colour, yuv_samples
from streamseg.effects.palette import palette
from streamseg.effects.pixelate import block_size
from streamseg.effects.registry import create_effect
from streamseg.frames import Colour, plane_view
from streamseg.segmentation import Segmentation

from .pictures import flat, frame, mask_left, picture, planes, segmentation

RED = (63, 102, 240)  # BT.709, limited range
GREEN_GREY = (120, 118, 112)


def red_disc_on_grey(width=640, height=360, offset=0):
    """A red disc on flat ground; its true mask, or one that is too small by ``offset`` pixels."""
    video = flat(GREEN_GREY, width, height)
    yy, xx = np.mgrid[0:height, 0:width]
    distance = np.hypot(xx - width // 2, yy - height // 2)
    disc = distance < 80
    plane_view(video, 0)[disc] = RED[0]
    plane_view(video, 1)[disc[::2, ::2]] = RED[1]
    plane_view(video, 2)[disc[::2, ::2]] = RED[2]
    truth = np.clip(80.5 - offset - distance, 0, 1).astype(np.float32)
    return video, cv2.resize(truth, (256, 256), interpolation=cv2.INTER_AREA), distance


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("name", ["blur", "pixelate"])
def test_the_subject_leaves_no_halo(name, offset):
    video, mask, distance = red_disc_on_grey(offset=offset)
    out = create_effect(name).apply(frame(video), segmentation(mask))
    ring = (distance > 90) & (distance < 200)
    for number, level in ((1, GREEN_GREY[1]), (2, GREEN_GREY[2])):
        chroma = planes(out.video)[number].astype(int)
        assert np.abs(chroma[ring[::2, ::2]] - level).max() <= 4
    # The same without regard to the mask: the halo is there
    chroma = planes(video)[2].astype(np.float32)
    plain = cv2.GaussianBlur(chroma, (0, 0), 360 * 0.0265 / 2)
    assert np.abs(plain[ring[::2, ::2]] - GREEN_GREY[2]).max() > 4


def test_the_subject_itself_stays_red():
    video, mask, distance = red_disc_on_grey()
    out = create_effect("blur").apply(frame(video), segmentation(mask))
    inside = (distance < 70)[::2, ::2]
    assert set(planes(out.video)[2][inside]) == {RED[2]}


@pytest.mark.parametrize("name", ["blur", "pixelate"])
def test_more_strength_leaves_less_detail(name):
    source = frame(width=640, height=360)
    detail = []
    for strength in (0, 10, 30, 50, 75, 100):
        out = create_effect(name, {"strength": strength}).apply(
            source, segmentation(np.zeros((64, 64), np.float32))
        )
        detail.append(float(planes(out.video)[0].astype(float).std()))
    assert detail == sorted(detail, reverse=True)
    assert detail[0] > 10 * detail[3]


@pytest.mark.parametrize("name", ["blur", "pixelate", "grayscale", "tint"])
def test_strength_zero_is_off_even_without_a_mask(name):
    source = frame()
    effect = create_effect(name, {"strength": 0})
    for given in (segmentation(mask_left()), None):
        out = effect.apply(source, given)
        for before, after in zip(planes(source.video), planes(out.video), strict=True):
            assert np.array_equal(before, after)


def test_strength_of_grayscale_is_partial():
    out = create_effect("grayscale", {"strength": 50}).apply(
        frame(flat(RED)), segmentation(np.zeros((8, 8), np.float32))
    )
    assert abs(int(planes(out.video)[2][0, 0]) - (RED[2] + 128) // 2) <= 1
    assert planes(out.video)[0][0, 0] == RED[0]


def test_a_blur_has_no_steps_from_enlarging():
    video = flat((16, 128, 128), 640, 360)
    plane_view(video, 0)[:, 320:] = 235
    out = create_effect("blur", {"strength": 100}).apply(
        frame(video), segmentation(np.zeros((8, 8), np.float32))
    )
    row = planes(out.video)[0][180].astype(int)
    assert (np.diff(row) >= -1).all()
    assert np.abs(np.diff(row)).max() <= 8
    assert np.abs(np.diff(row, 2)).max() <= 3


def test_a_moving_subject_does_not_make_a_still_background_shimmer():
    effect = create_effect("blur")
    source = picture(width=640, height=360, seed=3)
    rows = []
    for number in range(6):
        mask = np.zeros((256, 256), np.float32)
        mask[100:250, 90 + number : 130 + number] = 1.0
        out = effect.apply(frame(source), segmentation(mask))
        rows.append(planes(out.video)[0][:, 500:].astype(int))
    assert max(np.abs(a - b).max() for a, b in itertools.pairwise(rows)) <= 1


def test_squares_are_flat_and_aligned_in_all_planes():
    source = frame(width=320, height=192)
    out = create_effect("pixelate").apply(source, segmentation(np.zeros((8, 8), np.float32)))
    side = block_size(50, 320, 192)
    assert side == 8
    for plane, own in zip(planes(out.video), (side, side // 2, side // 2), strict=True):
        blocks = plane.reshape(192 * own // side // own, own, -1, own)
        assert (blocks.max(axis=(1, 3)) == blocks.min(axis=(1, 3))).all()
    means = planes(source.video)[0].reshape(24, 8, 40, 8).mean(axis=(1, 3))
    got = planes(out.video)[0][::8, ::8]
    assert np.abs(got - means).max() <= 2


@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p", "yuv420p10le", "rgb24"])
def test_the_mask_picture_is_grey_of_full_range(name):
    out = create_effect("mask").apply(frame(picture(name)), segmentation(mask_left()))
    (grey,) = planes(out.video)
    assert out.pixel_format == "gray"
    assert Colour.of(out.video).range == 2
    assert (grey[0, 0], grey[0, -1]) == (255, 0)


def test_the_mask_picture_is_never_out_of_date():
    effect = create_effect("mask")
    effect.apply(frame(), segmentation(np.ones((8, 8), np.float32)))
    assert planes(effect.apply(frame(), None).video)[0].max() == 0


@pytest.mark.parametrize(
    ("pixel_format", "opaque"), [("yuv420p", 255), ("yuv422p10le", 1023), ("yuv444p", 255)]
)
def test_cutout_has_the_mask_as_alpha_and_hides_what_is_under_none(pixel_format, opaque):
    source = frame(pixel_format=pixel_format)
    out = create_effect("cutout").apply(source, segmentation(mask_left()))
    *colours, alpha = planes(out.video)
    assert (alpha[:, :44] == opaque).all()
    assert (alpha[:, 54:] == 0).all()
    bits = 8 if opaque == 255 else 10
    assert (colours[0][:, 54:] == 16 << (bits - 8)).all()
    assert (colours[1][:, -8:] == 128 << (bits - 8)).all()


def test_cutout_keeps_the_pictures_own_alpha():
    video = picture("yuva420p")
    plane_view(video, 3)[:] = 255
    plane_view(video, 3)[:32] = 0
    out = create_effect("cutout").apply(frame(video), segmentation(np.ones((8, 8), np.float32)))
    alpha = planes(out.video)[3]
    assert (alpha[:32] == 0).all()
    assert (alpha[32:] == 255).all()


@pytest.mark.parametrize(("pixel_format", "full"), [("yuva420p", 255), ("yuva444p10le", 1023)])
def test_cutout_multiplies_both_alphas(pixel_format, full):
    video = picture(pixel_format)
    plane_view(video, 3)[:] = full // 2
    out = create_effect("cutout").apply(frame(video), segmentation(np.full((8, 8), 0.5)))
    assert np.abs(planes(out.video)[3] / full - 0.25).max() < 0.005
    whole = create_effect("cutout").apply(frame(video), segmentation(np.ones((8, 8), np.float32)))
    assert np.array_equal(planes(whole.video)[0], planes(video)[0])  # straight, not premultiplied


ALPHA = ["yuva420p", "yuva422p10le", "yuva444p", "yuva444p16be", "rgba", "bgra", "gbrap10le"]


@pytest.mark.parametrize("size", [(96, 64), (5, 3)])
@pytest.mark.parametrize("pixel_format", [*ALPHA, "rgba64le", "ya8", "ya16be", "pal8"])
@pytest.mark.parametrize("name", ["blur", "tint", "replace"])
def test_what_was_transparent_stays_unseen_where_alpha_is_dropped(name, pixel_format, size):
    grey = np.full((size[1], size[0], 4), 200, np.uint8)
    grey[..., 3] = 255
    solid = av.VideoFrame.from_ndarray(grey, "rgba")
    grey[:, : size[0] // 2, 3] = 0
    half = av.VideoFrame.from_ndarray(grey, "rgba")
    outs = []
    for video in (solid, half):
        video.colorspace = 1
        if pixel_format == "pal8":
            entry = np.zeros((256, 4), np.uint8)
            entry[0], entry[1] = (0, 200, 200, 200), (255, 200, 200, 200)
            numbers = (video.to_ndarray()[..., 3] // 255).astype(np.uint8)
            video = av.VideoFrame.from_ndarray((numbers, entry), "pal8")
        elif pixel_format != "rgba":
            video = video.reformat(format=pixel_format, dst_colorspace=1)
        video.colorspace = 0 if video.format.is_rgb else 1
        nothing = segmentation(np.full((8, 8), float(name != "tint"), np.float32))
        before = [bytes(plane) for plane in video.planes]
        outs.append(create_effect(name).apply(frame(video), nothing).video)
        assert [bytes(plane) for plane in video.planes] == before
    whole, cut = (
        out.reformat(format="rgb24", dst_color_range=2).to_ndarray().astype(int) for out in outs
    )
    assert np.abs(whole - 200).max() <= 20  # the ranges of grey, as they ever were
    assert cut[:, : size[0] // 2 - 1].max() <= 10
    assert np.abs(cut[:, size[0] // 2 + 1 :] - whole[:, size[0] // 2 + 1 :]).max() <= 3


@pytest.mark.parametrize("pixel_format", ["yuva420p", "yuva422p10le", "yuva444p"])
def test_opaque_samples_stay_as_they_are_where_alpha_is_dropped(pixel_format):
    video = picture(pixel_format, 97, 63)
    alpha = plane_view(video, 3)
    alpha[:] = 255 if alpha.dtype == np.uint8 else 1023
    alpha[:, :20] = 0
    out = create_effect("blur").apply(frame(video), segmentation(np.ones((8, 8), np.float32)))
    for before, after in zip(planes(video)[:3], planes(out.video), strict=True):
        first = 20 * before.shape[1] // 97 + 1
        assert np.array_equal(before[:, first:], after[:, first:])
        assert len(np.unique(after[:, : first - 1])) == 1


def test_cutout_of_the_rest():
    out = create_effect("cutout", {"on": "subject"}).apply(frame(), segmentation(mask_left()))
    alpha = planes(out.video)[3]
    assert (alpha[:, :40] == 0).all()
    assert (alpha[:, 56:] == 255).all()


@pytest.mark.parametrize("span", [1, 2])
@pytest.mark.parametrize("space", [1, 6, 9])
def test_tint_colours_are_right_in_every_matrix_and_range(space, span):
    video = picture("yuv444p", colour=Colour(space, span, 2, 2))
    effect = create_effect("tint", {"strength": 100, "colours": {"SELFIE": "#ff8000"}})
    out = effect.apply(frame(video), segmentation(np.ones((8, 8), np.float32)))
    rgb = out.video.reformat(format="rgb24", dst_color_range=2).to_ndarray()
    assert np.abs(rgb.astype(int) - [255, 128, 0]).max() <= 4


def test_tint_gives_every_class_its_colour_and_leaves_the_rest():
    labels = ("BACKGROUND", "CAT", "DOG")
    cat, dog = np.zeros((64, 96), np.float32), np.zeros((64, 96), np.float32)
    cat[:, :32], dog[:, 32:64] = 1.0, 1.0
    source = frame(picture("yuv444p"))
    given = Segmentation(7, labels, None, {"CAT": cat, "DOG": dog})
    out = planes(create_effect("tint", {"strength": 100}).apply(source, given).video)
    colour = Colour(1, 1, 1, 1)
    for column, index in ((12, 1), (48, 2)):
        expected = yuv_samples(palette(labels)[index], colour, 8)
        assert np.abs([int(plane[20, column]) for plane in out] - np.array(expected)).max() <= 1
    for before, after in zip(planes(source.video), out, strict=True):
        assert np.array_equal(before[:, 70:], after[:, 70:])


def test_tint_takes_the_class_map_where_there_are_no_masks():
    labels = ("BACKGROUND", "CAT")
    classes = np.zeros((8, 12), np.uint8)
    classes[:, :6] = 1
    source = frame()
    out = create_effect("tint").apply(source, Segmentation(7, labels, classes, {}))
    assert not np.array_equal(planes(out.video)[1][:, :20], planes(source.video)[1][:, :20])
    assert np.array_equal(planes(out.video)[1][:, 28:], planes(source.video)[1][:, 28:])
    nobody = Segmentation(7, labels, np.zeros((8, 12), np.uint8), {})
    same = create_effect("tint").apply(source, nobody)
    assert np.array_equal(planes(same.video)[0], planes(source.video)[0])


def test_voc_palette():
    assert class_colour("AEROPLANE", 1) == (128, 0, 0)
    assert class_colour("BICYCLE", 2) == (0, 128, 0)
    assert class_colour("PERSON", 15) == (192, 128, 128)
    assert class_colour("TVMONITOR", 20) == (0, 64, 128)


def test_rgb_pictures_become_bt709_limited():
    video = av.VideoFrame.from_ndarray(np.full((16, 16, 3), (255, 0, 0), np.uint8), "rgb24")
    out = create_effect("blur").apply(frame(video), segmentation(np.ones((8, 8), np.float32)))
    assert [int(plane[8 // 2, 4]) for plane in planes(out.video)] == list(RED)
    assert (out.video.colorspace, out.video.color_range) == (1, 1)


@pytest.mark.parametrize("span", [0, 1, 2])
@pytest.mark.parametrize("pixel_format", ["nv12", "yuv420p", "yuvj420p", "yuva420p", "gray"])
def test_samples_are_not_shifted_by_range(pixel_format, span):
    video = picture(pixel_format, colour=Colour(1, span, 1, 1))
    for plane in video.planes:
        np.frombuffer(plane, np.uint8)[:] = 77
    for plane in video.planes[3:]:
        np.frombuffer(plane, np.uint8)[:] = 255
    for name in ("blur", "replace"):
        out = create_effect(name).apply(frame(video), segmentation(np.ones((8, 8), np.float32)))
        assert set(np.unique(planes(out.video)[0])) == {77}


def test_parse_colour():
    assert parse_colour("#f80") == (255, 136, 0)
    assert parse_colour(" White ") == (255, 255, 255)
    assert parse_colour("#0047BB") == (0, 71, 187)
