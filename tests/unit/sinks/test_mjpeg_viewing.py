"""Pictures for viewers: the right colours, the right size, and nothing through transparency."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from streamseg.frames import Colour, plane_view
from streamseg.sinks.viewing import Viewable, view_size
from tests.unit.sinks.helpers import info_of

RGB = (190, 60, 120)
KR_KB = {6: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}


def yuv_of(rgb: tuple[int, int, int], space: int, full: bool) -> list[int]:
    """By the book: ITU-R BT.601, BT.709, BT.2020."""
    kr, kb = KR_KB[space]
    r, g, b = (value / 255 for value in rgb)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    blue, red = (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)
    if full:
        return [round(luma * 255), round(128 + blue * 255), round(128 + red * 255)]
    return [round(16 + luma * 219), round(128 + blue * 224), round(128 + red * 224)]


def plain(
    values: list[int], pixel_format: str = "yuv420p", width: int = 64, height: int = 48
) -> av.VideoFrame:
    """One colour, a value for each plane."""
    video = av.VideoFrame(width, height, pixel_format)
    for plane, value in enumerate(values):
        plane_view(video, plane)[:] = value
    return video


def middle(video: av.VideoFrame) -> NDArray[np.int64]:
    return video.to_ndarray()[video.height // 2, video.width // 2].astype(int)


@pytest.mark.parametrize("space", [1, 6, 9])
@pytest.mark.parametrize("full", [False, True])
def test_bgr_is_made_with_the_frames_own_matrix_and_range(space: int, full: bool) -> None:
    video = plain(yuv_of(RGB, space, full))
    video.colorspace, video.color_range = space, 2 if full else 1
    result = Viewable("bgr24", info_of()).apply(video)
    assert np.abs(middle(result)[::-1] - RGB).max() <= 3
    assert (int(video.colorspace), int(video.color_range)) == (space, 2 if full else 1)


def test_what_the_frame_does_not_say_the_stream_does() -> None:
    video = plain(yuv_of(RGB, 9, True))
    info = info_of(colour=Colour(space=9, range=2))
    assert np.abs(middle(Viewable("bgr24", info).apply(video))[::-1] - RGB).max() <= 3


@pytest.mark.parametrize(("height", "space"), [(480, 6), (720, 1)])
def test_what_nobody_says_goes_by_the_height(height: int, space: int) -> None:
    video = plain(yuv_of(RGB, space, False), width=64, height=height)
    assert np.abs(middle(Viewable("bgr24", info_of()).apply(video))[::-1] - RGB).max() <= 3


@pytest.mark.parametrize("space", [1, 6])
@pytest.mark.parametrize("full", [False, True])
def test_yuv_is_bt601_in_limited_range(space: int, full: bool) -> None:
    video = plain(yuv_of(RGB, space, full))
    video.colorspace, video.color_range = space, 2 if full else 1
    result = Viewable("yuv420p", info_of()).apply(video)
    found = [int(plane_view(result, plane)[10, 10]) for plane in range(3)]
    assert np.abs(np.subtract(found, yuv_of(RGB, 6, False))).max() <= 2
    assert (result is video) == (space == 6 and not full), "copied only where it must be"


@pytest.mark.parametrize("pixel_format", ["bgr24", "rgb24", "bgra", "gray", "gbrp"])
def test_rgb_and_grey_keep_their_values(pixel_format: str) -> None:
    video = av.VideoFrame(64, 48, pixel_format)
    for plane in video.planes:
        plane.update(bytes([170]) * plane.buffer_size)
    if pixel_format == "bgra":
        rows = np.frombuffer(video.planes[0], np.uint8)  # type: ignore[call-overload]
        rows[3::4] = 255
    for target in ("bgr24", "yuv420p"):
        result = Viewable(target, info_of()).apply(video)
        if target == "bgr24":
            assert np.abs(middle(result) - 170).max() <= 2
        else:
            assert abs(int(plane_view(result, 0)[9, 9]) - round(16 + 170 * 219 / 255)) <= 2


@pytest.mark.parametrize("pixel_format", ["yuva420p", "yuva444p", "gbrap", "rgba"])
@pytest.mark.parametrize("target", ["bgr24", "yuv420p"])
def test_nothing_shows_through_what_is_transparent(pixel_format: str, target: str) -> None:
    video = av.VideoFrame(64, 48, pixel_format)
    if pixel_format == "rgba":
        rows = np.frombuffer(video.planes[0], np.uint8)  # type: ignore[call-overload]
        rows[:] = 200
        rows[3::4] = 0
    else:
        for plane in range(4):
            plane_view(video, plane)[:] = 0 if plane == 3 else 200
    result = Viewable(target, info_of()).apply(video)
    if target == "bgr24":
        assert int(result.to_ndarray().max()) <= 2
    else:
        assert int(plane_view(result, 0).max()) <= 18


def test_half_transparent_is_half_as_bright() -> None:
    video = plain([100, 100, 100, 128], "gbrap")
    assert np.abs(middle(Viewable("bgr24", info_of()).apply(video)) - 50).max() <= 2


def test_a_fixed_size_is_kept_with_black_bars() -> None:
    view = Viewable("yuv420p", info_of(), size=(64, 48))
    wide = view.apply(plain([235, 128, 128], width=128, height=48))
    assert (wide.width, wide.height) == (64, 48)
    luma = plane_view(wide, 0)
    assert luma[:10].max() <= 16
    assert luma[-10:].max() <= 16
    assert luma[14:34].min() >= 230
    tall = view.apply(plain([235, 128, 128], width=32, height=96))
    assert (tall.width, tall.height) == (64, 48)
    assert plane_view(tall, 0)[:, :20].max() <= 16
    back = view.apply(plain([235, 128, 128]))
    assert plane_view(back, 0).min() >= 230


@pytest.mark.parametrize(
    ("size", "aspect", "bound", "expected"),
    [
        ((1920, 1080), 1, None, (1920, 1080)),
        ((1920, 1080), 1, (1280, 720), (1280, 720)),
        ((1920, 1080), 1, (1280, 1280), (1280, 720)),
        ((640, 480), 1, (1280, 720), (640, 480)),
        ((720, 576), Fraction(16, 15), None, (768, 576)),
        ((1, 5000), 1, (100, 100), (1, 100)),
    ],
)
def test_sizes(size: tuple[int, int], aspect: Fraction, bound: object, expected: object) -> None:
    assert view_size(*size, Fraction(aspect), bound) == expected  # type: ignore[arg-type]


def test_samples_that_are_not_square_are_made_so() -> None:
    info = info_of(width=72, height=48, sample_aspect_ratio=Fraction(4, 3))
    result = Viewable("bgr24", info).apply(plain([100, 128, 128], width=72))
    assert (result.width, result.height) == (96, 48)
