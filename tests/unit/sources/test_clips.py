"""The bar code of test clips survives what pipelines do to pictures."""

from __future__ import annotations

import av
import numpy as np
import pytest

from tests.support.clips import MAX_NUMBER, draw_frame, draw_picture, read_frame_number


@pytest.mark.parametrize("number", [0, 1, 2, 1365, 2730, MAX_NUMBER])
@pytest.mark.parametrize("size", [(56, 32), (321, 181), (1920, 1080)])
def test_number_reads_back(number: int, size: tuple[int, int]) -> None:
    assert read_frame_number(draw_picture(number, *size)) == number
    assert read_frame_number(draw_frame(number, *size)) == number


@pytest.mark.parametrize("pixel_format", ["yuvj420p", "yuv422p10le", "rgb24", "bgra", "gray"])
def test_number_survives_pixel_formats(pixel_format: str) -> None:
    assert read_frame_number(draw_frame(77, pixel_format=pixel_format)) == 77


def test_number_survives_scaling_and_noise() -> None:
    small = draw_frame(777).reformat(width=97, height=61)
    assert read_frame_number(small) == 777
    noise = np.random.default_rng(1).normal(0, 25, (180, 320, 3))
    noisy = np.clip(draw_picture(777) * 0.7 + 40 + noise, 0, 255).astype(np.uint8)
    assert read_frame_number(noisy) == 777


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_picture_that_is_not_upright_is_no_number(turn: int) -> None:
    with pytest.raises(ValueError, match="bar code"):
        read_frame_number(np.ascontiguousarray(np.rot90(draw_picture(5), turn)))


def test_blank_picture_is_no_number() -> None:
    blank = av.VideoFrame.from_ndarray(np.full((180, 320, 3), 128, np.uint8), "rgb24")
    with pytest.raises(ValueError, match="no upright bar code"):
        read_frame_number(blank)


def test_number_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 4095"):
        draw_picture(MAX_NUMBER + 1)
