"""Turning, deinterlacing and fitting of single frames; no files."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from streamseg.sources import upright as upright_module
from streamseg.sources.upright import Turn, Upright
from tests.support.clips import draw_frame, read_frame_number

ONE = 1 << 16


def _matrix(a: float, b: float, c: float, d: float) -> bytes:
    values = [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]
    return np.array(values, np.int32).tobytes()


@pytest.mark.parametrize(
    ("matrix", "filters"),
    [
        ((1, 0, 0, 1), []),
        ((0, 1, -1, 0), ["transpose=dir=clock"]),
        ((-1, 0, 0, -1), ["hflip", "vflip"]),
        ((0, -1, 1, 0), ["transpose=dir=cclock"]),
        ((-1, 0, 0, 1), ["hflip"]),
        ((1, 0, 0, -1), ["vflip"]),
        ((0, 1, 1, 0), ["transpose=dir=cclock_flip"]),
        ((0, -1, -1, 0), ["transpose=dir=clock_flip"]),
        ((0, 0, 0, 0), []),
        ((2, 0, 0, 2), []),
    ],
)
def test_every_symmetry_has_its_filters(matrix: tuple[int, ...], filters: list[str]) -> None:
    turn = Turn.of(_matrix(*matrix))
    assert turn.filters == filters
    assert turn.rest_degrees == pytest.approx(0)


def test_other_angles_go_to_the_nearest_quarter_turn() -> None:
    cos, sin = np.cos(np.radians(80)), np.sin(np.radians(80))
    turn = Turn.of(_matrix(cos, sin, -sin, cos))
    assert turn.filters == ["transpose=dir=clock"]
    assert turn.rest_degrees == pytest.approx(10, abs=0.1)


def test_plain_frames_pass_untouched() -> None:
    upright = Upright()
    frame = draw_frame(3)
    assert upright.push(frame)[0] is frame
    assert upright.flush() == []
    assert upright.size == (320, 180)
    assert upright.pixel_format == "yuv420p"
    assert not upright.swapped


def test_nothing_is_known_before_the_first_frame() -> None:
    upright = Upright()
    with pytest.raises(ValueError, match="no picture"):
        _ = upright.size
    with pytest.raises(ValueError, match="no picture"):
        _ = upright.pixel_format


def test_other_sizes_and_formats_are_fitted_and_told_once() -> None:
    upright = Upright()
    frames = [
        draw_frame(0),
        draw_frame(1, 640, 480),
        draw_frame(2, pixel_format="yuv444p"),
        draw_frame(3, 640, 480),
        draw_frame(4),
    ]
    got = [ready for frame in frames for ready in upright.push(frame)] + upright.flush()
    assert [read_frame_number(frame) for frame in got] == [0, 1, 2, 3, 4]
    assert [frame.pts for frame in got] == [0, 1, 2, 3, 4]
    assert {(f.width, f.height, f.format.name) for f in got} == {(320, 180, "yuv420p")}
    assert {frame.time_base for frame in got} == {Fraction(1, 25)}
    assert len(upright.notices) == 2
    assert "at frame 1" in upright.notices[0]
    assert "at frame 2" in upright.notices[1]


def test_colour_description_goes_around_the_filters() -> None:
    upright = Upright()
    upright.push(draw_frame(0))
    frame = draw_frame(1, 640, 480)
    frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = 9, 1, 9, 16
    (got,) = upright.push(frame)
    assert (got.colorspace, got.color_range, got.color_primaries, got.color_trc) == (9, 1, 9, 16)


def test_palette_becomes_samples() -> None:
    upright = Upright()
    greys = np.arange(256, dtype=np.uint8)
    palette = np.stack([np.full(256, 255, np.uint8), greys, greys, greys], axis=1)
    indices = draw_frame(5, pixel_format="gray").to_ndarray()
    (got,) = upright.push(av.VideoFrame.from_ndarray((indices, palette), format="pal8"))
    assert read_frame_number(got) == 5
    assert upright.pixel_format == "rgba"
    assert got.format.name == "rgba"


def test_first_frame_that_needs_no_filter_does_not_stop_a_later_one() -> None:
    upright = Upright()
    upright.push(draw_frame(0, 640, 360))
    (got,) = upright.push(draw_frame(1))
    assert isinstance(got, av.VideoFrame)
    assert (got.width, got.height) == (640, 360)


@pytest.mark.parametrize(("degrees", "filters"), [(90, ["transpose=dir=cclock"]), (0, [])])
def test_an_unreadable_matrix_leaves_the_angle(
    monkeypatch: pytest.MonkeyPatch, degrees: int, filters: list[str]
) -> None:
    class Turned:
        rotation = degrees

    monkeypatch.setattr(upright_module, "safe_side_data", lambda *_: {})
    assert upright_module._turn_of(Turned()).filters == filters  # type: ignore[arg-type]
