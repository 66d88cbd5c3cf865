from __future__ import annotations

import av
import numpy as np
import pytest
from av.codec.codec import PixFmtLoss

from streamseg.frames import Colour, luma_plane
from streamseg.sinks.pixels import (
    Conform,
    Picture,
    can_pad,
    choose_format,
    describe_loss,
    has_alpha,
    output_colour,
)


@pytest.mark.parametrize(
    ("source", "encoder", "target"),
    [
        ("yuv420p", "libx264", "yuv420p"), ("yuvj420p", "libx264", "yuvj420p"),
        ("yuvj420p", "libvpx-vp9", "yuv420p"), ("nv12", "libx264", "nv12"),
        ("bgr24", "libx264", "yuv420p"), ("pal8", "libx264", "yuv420p"),
        ("gbrp10le", "libx265", "yuv420p10le"), ("gray10le", "libx264", "yuv420p10le"),
        ("yuv420p12le", "libx264", "yuv420p10le"), ("yuv411p", "libx264", "yuv422p"),
        ("yuv420p", "mjpeg", "yuvj420p"), ("yuva420p", "libvpx-vp9", "yuva420p"),
        ("yuv420p10le", "libvpx-vp9", "yuv420p"), ("rgb24", "ffv1", "bgr0"),
    ],
)  # fmt: skip
def test_choice_of_format(source: str, encoder: str, target: str) -> None:
    assert choose_format(source, av.Codec(encoder, "w"))[0] == target


def test_loss_is_said_in_words() -> None:
    assert describe_loss(choose_format("yuv420p12le", av.Codec("libx264", "w"))[1])
    assert not describe_loss(choose_format("yuv420p", av.Codec("prores_ks", "w"))[1])
    assert (
        describe_loss(PixFmtLoss.ALPHA | PixFmtLoss.DEPTH) == "bit depth is reduced, alpha is lost"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("yuva420p", True), ("rgba", True), ("ya8", True), ("pal8", False), ("bgr0", False)],
)
def test_alpha(name: str, expected: bool) -> None:
    assert has_alpha(name) is expected


def test_unknown_colour_stays_unknown_and_the_stream_fills_in() -> None:
    frame = av.VideoFrame(64, 64, "yuv420p")
    assert output_colour(frame, Colour(), "yuv420p") == Colour()
    known = Colour(9, 1, 9, 16)
    assert output_colour(frame, known, "yuv420p") == known


@pytest.mark.parametrize(("height", "matrix"), [(576, 6), (577, 1)])
def test_rgb_gets_the_customary_matrix(height: int, matrix: int) -> None:
    colour = output_colour(av.VideoFrame(64, height, "rgb24"), Colour(), "yuv420p")
    assert (colour.space, colour.range) == (matrix, 1)


def test_no_conversion_shares_the_memory_and_not_the_frame() -> None:
    frame = av.VideoFrame(64, 64, "yuv420p")
    frame.pict_type, frame.pts = 1, 5
    conform = Conform(Picture("yuv420p", 64, 64, 0, 0, Colour()))
    result = conform.apply(frame)
    result.pts = 7
    assert result.planes[0].buffer_ptr == frame.planes[0].buffer_ptr
    assert (result.pict_type, frame.pict_type, frame.pts) == (0, 1, 5)


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p", "gray"])
def test_padding_repeats_the_edge_and_keeps_the_rest(name: str) -> None:
    assert can_pad(name)
    frame = av.VideoFrame(33, 17, name)
    generator = np.random.default_rng(1)
    luma_plane(frame)[:] = generator.integers(16, 235, (17, 33))
    result = Conform(Picture(name, 34, 18, 1, 1, Colour())).apply(frame)
    padded, source = luma_plane(result), luma_plane(frame)
    np.testing.assert_array_equal(padded[:17, :33], source)
    np.testing.assert_array_equal(padded[:17, 33], source[:, 32])
    np.testing.assert_array_equal(padded[17, :33], source[16])


def test_packed_chroma_cannot_be_padded() -> None:
    assert not can_pad("nv12")


def test_full_range_grey_keeps_its_values() -> None:
    frame = av.VideoFrame(256, 16, "gray")
    luma_plane(frame)[:] = np.arange(256, dtype=np.uint8)
    frame.color_range = 2
    colour = output_colour(frame, Colour(), "yuv420p")
    result = Conform(Picture("yuv420p", 256, 16, 0, 0, colour)).apply(frame)
    np.testing.assert_array_equal(luma_plane(result), luma_plane(frame))
