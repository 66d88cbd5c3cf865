from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from streamseg.sources.live_time import TIME_BASE, LiveTimeline

RATE = 30


def place(line: LiveTimeline, time: float | Fraction | None, captured_s: float) -> float:
    exact = None if time is None else Fraction(time).limit_denominator(90_000)
    return float(line.place(exact, captured_s) * TIME_BASE)


def test_the_device_s_rhythm_is_kept_whatever_the_arrival() -> None:
    line = LiveTimeline()
    arrivals = [5.0, 5.2, 5.21, 5.22, 5.5]
    placed = [line.place(Fraction(1000 + n, RATE), at) for n, at in enumerate(arrivals)]

    assert placed == [0, 3000, 6000, 9000, 12000]
    assert line.jumps == 0


def test_pictures_without_time_are_placed_by_their_arrival() -> None:
    line = LiveTimeline()
    assert [place(line, None, at) for at in (7.0, 7.1, 7.5)] == pytest.approx([0, 0.1, 0.5])


def test_pictures_with_and_without_time_mix() -> None:
    line = LiveTimeline()
    placed = [place(line, 3.0, 1.0), place(line, None, 1.04), place(line, 3.08, 1.08)]
    assert placed == pytest.approx([0, 0.04, 0.08])


@pytest.mark.parametrize("jump_s", [-3600, -1, -0.3, 30, 1e9])
def test_after_a_jump_the_gap_is_that_of_the_clock(jump_s: float) -> None:
    line = LiveTimeline()
    place(line, 4000.0, 1.0)
    place(line, 4000.04, 1.04)
    assert place(line, 4000.04 + jump_s, 1.1) == pytest.approx(0.1)
    assert place(line, 4000.08 + jump_s, 1.14) == pytest.approx(0.14)
    assert line.jumps == 1


def test_after_a_new_connection_the_gap_is_that_of_the_clock() -> None:
    line = LiveTimeline()
    place(line, 10.0, 1.0)
    line.disconnect()
    # The new clock goes on by chance where the old one was: that says nothing.
    assert place(line, 10.04, 4.5) == pytest.approx(3.5)
    assert line.jumps == 0


@pytest.mark.parametrize("step_s", [0.0, -0.01, -0.1])
def test_a_sloppy_stamp_is_moved_by_a_tick_and_is_no_jump(step_s: float) -> None:
    line = LiveTimeline()
    line.place(Fraction(5), 1.0)
    assert line.place(Fraction(5) + Fraction(step_s).limit_denominator(1000), 1.04) == 1
    assert line.place(Fraction(5) + Fraction(1, 25), 1.08) == 3600
    assert line.jumps == 0


def test_a_pause_of_the_sender_is_no_jump() -> None:
    line = LiveTimeline()
    place(line, 5.0, 1.0)
    assert place(line, 35.0, 31.0) == pytest.approx(30)
    assert line.jumps == 0


def test_pts_always_increase() -> None:
    line = LiveTimeline()
    stamps = [0, 1, 1, 0.5, -7, 100, 99.99, 99.9, 1e6, None, 0, None, 0]
    placed = [place(line, stamp, 1 + 0.001 * n) for n, stamp in enumerate(stamps)]
    assert all(a < b for a, b in pairwise(placed))


def test_sound_moves_with_the_picture_that_it_is_near() -> None:
    line = LiveTimeline()
    assert line.offset_of(Fraction(100)) is None
    place(line, 100.0, 1.0)
    place(line, 100.5, 1.5)
    assert line.offset_of(Fraction(101)) == -100
    # Its new part has come already, the picture's has not.
    assert line.offset_of(Fraction(3)) is None
    place(line, 2.5, 2.0)
    assert line.offset_of(Fraction(3)) == Fraction(-3, 2)
    # What is late, and of the part before.
    assert line.offset_of(Fraction(1005, 10)) == -100
    line.disconnect()
    assert line.offset_of(Fraction(3)) is None
