from __future__ import annotations

import statistics
import time
from fractions import Fraction
from itertools import pairwise
from typing import Any

import anyio
import cv2
import numpy as np
import pytest

from streamseg.errors import ConfigError
from streamseg.frames import Colour, luma_plane
from streamseg.sources import synthetic
from streamseg.sources.synthetic import TestSource

pytestmark = pytest.mark.anyio


async def read(source: TestSource) -> list[Any]:
    frames = []
    async with source:
        while True:
            try:
                frames.append(await source.receive())
            except anyio.EndOfStream:
                return frames


async def test_frames_come_in_real_time_and_end() -> None:
    begin_s = time.monotonic()
    frames = await read(TestSource(64, 64, 100, duration_s=0.2))
    took_s = time.monotonic() - begin_s

    assert 0.19 <= took_s < 0.6
    assert frames[-1].index == 19
    assert all(frame.pts == frame.index * 900 for frame in frames)


async def test_it_tells_what_it_is() -> None:
    async with TestSource(320, 180, 30000 / 1001) as source:
        info = await source.open()
        frame = await source.receive()
    assert (info.width, info.height, info.pixel_format) == (320, 180, "yuv420p")
    assert info.average_rate == Fraction(30000, 1001)
    assert info.live
    assert (
        info.colour == Colour.of(frame.video) == Colour(space=1, range=1, primaries=1, transfer=1)
    )


async def test_the_number_in_the_picture_is_the_frame_s() -> None:
    """The middle of each picture is what OpenCV draws for that number."""
    frames = await read(TestSource(320, 180, 200, duration_s=0.06))
    assert len(frames) > 3
    for frame in frames:
        expected = np.full((180, 320), 128, np.uint8)
        synthetic._draw(expected, str(frame.index))
        drawn = np.isin(expected, (16, 235))
        assert np.array_equal(luma_plane(frame.video)[drawn], expected[drawn])
    a, b = (luma_plane(frame.video) for frame in frames[:2])
    assert not np.array_equal(a, b)


async def test_without_a_number_all_pictures_are_alike() -> None:
    frames = await read(TestSource(320, 180, 200, duration_s=0.03, number=False))
    planes = [luma_plane(frame.video).copy() for frame in frames]
    assert all(np.array_equal(a, b) for a, b in pairwise(planes))
    edges = cv2.Canny(np.ascontiguousarray(planes[0]), 50, 100)
    assert edges.any(), "a pattern, not a grey picture"


def test_a_picture_of_720p_costs_less_than_two_milliseconds() -> None:
    grabber = synthetic._Pattern(1280, 720, Fraction(1000), None, number=True)
    grabber.open()
    costs_s = []
    for _ in range(60):
        begin_s = time.thread_time()
        grabber.grab()
        costs_s.append(time.thread_time() - begin_s)
    assert statistics.median(costs_s) < 0.002


@pytest.mark.parametrize(
    "values",
    [
        {"width": 63},
        {"width": 65},
        {"height": 9000},
        {"fps": 0},
        {"fps": float("nan")},
        {"duration_s": 0},
        {"duration_s": float("inf")},
    ],
)
def test_wrong_values_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        TestSource(**values)
