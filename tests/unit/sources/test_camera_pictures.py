from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from streamseg.frames import Colour
from streamseg.sources.cameras_pictures import CameraPictures, UnknownLayoutError
from tests.support.clips import draw_picture, read_frame_number
from tests.support.fake_camera import Kind, raw_picture

KINDS: list[Kind] = ["bgr", "yuyv", "mjpg", "nv12"]
LETTERS = {"bgr": "", "yuyv": "YUYV", "mjpg": "MJPG", "nv12": "NV12"}
PATCHES = [(200, 40, 40), (40, 180, 60), (50, 60, 210), (230, 230, 230), (16, 16, 16)]


def patches(width: int, height: int) -> NDArray[np.uint8]:
    """Columns of one colour each, BGR."""
    rgb = np.zeros((height, width, 3), np.uint8)
    for number, colour in enumerate(PATCHES):
        left, right = (width * n // len(PATCHES) for n in (number, number + 1))
        rgb[:, left:right] = colour
    return np.ascontiguousarray(rgb[..., ::-1])


def rgb_of(video: object) -> NDArray[np.float64]:
    """The picture as RGB by the book, from its own tags: apart from swscale."""
    colour = Colour.of(video)
    planes = video.to_ndarray()  # type: ignore[attr-defined]
    width, height = video.width, video.height  # type: ignore[attr-defined]
    luma = planes[:height].astype(float)
    blue, red = (
        part.reshape(height // 2, width // 2).astype(float).repeat(2, 0).repeat(2, 1) - 128
        for part in np.split(planes[height:].reshape(-1), 2)
    )
    if colour.range == 2:
        luma, blue, red = luma / 255, blue / 255, red / 255
    else:
        luma, blue, red = (luma - 16) / 219, blue / 224, red / 224
    kr, kb = {6: (0.299, 0.114), 1: (0.2126, 0.0722)}[colour.space]
    r = luma + 2 * (1 - kr) * red
    b = luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return np.dstack([r, g, b]).clip(0, 1) * 255


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(320, 180), (1280, 720)])
def test_colours_are_those_that_the_camera_saw(kind: Kind, size: tuple[int, int]) -> None:
    width, height = size
    video = CameraPictures().convert(
        raw_picture(kind, patches(width, height)), LETTERS[kind], width, height
    )
    assert video is not None
    assert (video.width, video.height, video.format.name) == (width, height, "yuv420p")
    rgb = rgb_of(video)
    for number, colour in enumerate(PATCHES):
        middle = width * (2 * number + 1) // (2 * len(PATCHES))
        assert np.abs(rgb[height // 2, middle] - colour).max() <= 4, colour


def test_jpeg_keeps_its_full_range_and_large_bgr_is_of_its_custom() -> None:
    bgr = patches(1280, 720)
    jpeg = CameraPictures().convert(raw_picture("mjpg", bgr), "MJPG", 1280, 720)
    assert (jpeg.colorspace, jpeg.color_range) == (6, 2)  # type: ignore[union-attr]
    large = CameraPictures().convert(bgr, "", 1280, 720)
    assert (large.colorspace, large.color_range) == (1, 1)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_mirror_changes_left_and_right(kind: Kind) -> None:
    bgr = np.ascontiguousarray(draw_picture(1234)[..., ::-1])
    turned = raw_picture(kind, np.ascontiguousarray(bgr[:, ::-1]))
    video = CameraPictures(mirror=True).convert(turned, LETTERS[kind], 320, 180)
    assert video is not None
    assert read_frame_number(video) == 1234


@pytest.mark.parametrize(
    "chroma", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
)
def test_jpeg_of_other_samplings_and_with_rubbish_after_it(chroma: int) -> None:
    bgr = np.ascontiguousarray(draw_picture(77)[..., ::-1])
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, chroma]
    data = cv2.imencode(".jpg", bgr, options)[1].reshape(-1)
    # Some drivers say how large their buffer is, not the picture in it.
    data = np.concatenate([data, np.zeros(5000, np.uint8)])
    video = CameraPictures().convert(data, "MJPG", 320, 180)
    assert video is not None
    assert video.format.name == "yuv420p"
    assert read_frame_number(video) == 77


def test_a_damaged_jpeg_is_none_and_the_next_one_is_read() -> None:
    bgr = np.ascontiguousarray(draw_picture(5)[..., ::-1])
    good = raw_picture("mjpg", bgr)
    pictures = CameraPictures()
    assert pictures.convert(good[:, :40].copy(), "MJPG", 320, 180) is None
    video = pictures.convert(good, "MJPG", 320, 180)
    assert video is not None
    assert read_frame_number(video) == 5


def test_packed_pictures_in_one_row_and_grey_ones() -> None:
    bgr = np.ascontiguousarray(draw_picture(9)[..., ::-1])
    flat = raw_picture("yuyv", bgr).reshape(1, -1)
    video = CameraPictures().convert(flat, "YUYV", 320, 180)
    assert video is not None
    assert read_frame_number(video) == 9
    grey = CameraPictures().convert(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), "GREY", 320, 180)
    assert grey is not None
    assert read_frame_number(grey) == 9


@pytest.mark.parametrize("shape", [(7, 5), (180, 320, 4), (1, 1000), (0,)])
def test_an_unknown_layout_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnknownLayoutError, match="shape"):
        CameraPictures().convert(np.zeros(shape, np.uint8), "H264", 320, 180)


def test_a_change_of_size_in_mid_stream_is_followed() -> None:
    pictures = CameraPictures()
    for number, (width, height) in enumerate([(320, 180), (640, 360), (320, 180)]):
        bgr = np.ascontiguousarray(draw_picture(number, width, height)[..., ::-1])
        video = pictures.convert(raw_picture("mjpg", bgr), "MJPG", 320, 180)
        assert video is not None
        assert (video.width, video.height) == (width, height)
        assert read_frame_number(video) == number
