"""Time stamps that files have, lack, or get wrong."""

from __future__ import annotations

from fractions import Fraction

import av
import pytest

from streamseg.sources.timeline import Stamps, Window


def _stamps(*given: int | None, step: Fraction | int = 10, second: int = 250) -> list[int]:
    stamps = Stamps(Fraction(step), Fraction(second))
    return [stamps.next(pts) for pts in given]


def test_good_stamps_are_untouched() -> None:
    assert _stamps(-5, 0, 7, 8, 100_000) == [-5, 0, 7, 8, 100_000]


def test_missing_stamps_are_made_up_without_drift() -> None:
    assert _stamps(None, None, None, None, step=Fraction(10, 3)) == [0, 3, 7, 10]
    assert _stamps(20, None, None, 50) == [20, 30, 40, 50]


def test_first_missing_stamp_begins_at_its_dts() -> None:
    assert Stamps(Fraction(10), Fraction(250)).next(None, 33) == 33


def test_step_below_one_tick_still_increases() -> None:
    assert _stamps(None, None, None, step=Fraction(1, 3)) == [0, 1, 2]


def test_equal_and_slightly_earlier_stamps_move_to_after_the_last() -> None:
    stamps = Stamps(Fraction(10), Fraction(250))
    assert [stamps.next(pts) for pts in (0, 10, 10, 5, 30)] == [0, 10, 11, 12, 30]
    assert stamps.repaired == 2
    assert stamps.jumps == 0


def test_jump_back_starts_a_new_part_after_the_old_one() -> None:
    stamps = Stamps(Fraction(10), Fraction(250))
    assert [stamps.next(pts) for pts in (1000, 1010, 0, 10, 20)] == [1000, 1010, 1020, 1030, 1040]
    assert stamps.jumps == 1


def test_window_without_start_shifts_nothing() -> None:
    window = Window.of(Fraction(1, 25), Fraction(3, 25), None, 1.0)
    assert (window.first, window.end, window.shift) == (None, 28, 0)
    assert not window.too_early(-100)
    assert window.too_late(28)
    assert not window.too_late(27)


@pytest.mark.parametrize("base", [Fraction(1, 25), Fraction(1, 12_800), Fraction(1, 1_200_000)])
@pytest.mark.parametrize("number", [1, 7, 33, 299])
def test_start_given_as_a_frames_own_time_includes_it(base: Fraction, number: int) -> None:
    pts = round(Fraction(number, 25) / base)
    window = Window.of(base, Fraction(0), number / 25, None)
    assert window.first is not None
    assert pts - 2 <= window.first <= pts
    assert abs(pts - window.shift) <= 1


@pytest.mark.parametrize("number", [1, 7, 33, 299])
def test_start_at_an_ntsc_frame_includes_it(number: int) -> None:
    window = Window.of(Fraction(1, 30_000), Fraction(0), number * 1001 / 30_000, None)
    assert window.first == number * 1001


def _packet(pts: int | None, dts: int | None = None) -> av.Packet:
    packet = av.Packet(b"x")
    packet.pts, packet.dts, packet.time_base = pts, dts, Fraction(1, 1000)
    return packet


def test_packets_are_placed_by_their_beginning() -> None:
    window = Window.of(Fraction(1, 25), Fraction(0), 1.0, 2.0)
    assert window.place(_packet(999)) == -1
    inside = _packet(1000, 990)
    assert window.place(inside) == 0
    assert (inside.pts, inside.dts) == (0, -10)
    assert window.place(_packet(2999)) == 0
    assert window.place(_packet(3000)) == 1
    assert window.place(_packet(None)) == -1


def test_chapters_are_moved_clipped_and_left_out() -> None:
    def chapter(start: int, end: int) -> dict[str, object]:
        base = Fraction(1, 1000)
        return {"id": 1, "start": start, "end": end, "time_base": base, "metadata": {}}

    window = Window.of(Fraction(1, 25), Fraction(0), 1.0, 2.0)
    chapters = [chapter(0, 1000), chapter(500, 1500), chapter(1500, 9000), chapter(3000, 4000)]
    spans = [(kept["start"], kept["end"]) for kept in window.chapters(chapters)]
    assert spans == [(0, 500), (500, 2000)]
