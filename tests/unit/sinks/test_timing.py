from __future__ import annotations

from fractions import Fraction as F

import av
import pytest

from streamseg.sinks.timing import Clock
from tests.unit.sinks.helpers import TB, make_frame


def stamps(clock: Clock, ticks: list[int | None], *, time_base: F = TB) -> list[av.VideoFrame]:
    videos = []
    for number, tick in enumerate(ticks):
        video = av.VideoFrame(16, 16, "yuv420p")
        frame = make_frame(number, 0, time_base=time_base)
        frame.video.pts = tick
        clock.stamp(frame, video)
        videos.append(video)
    return videos


def restored(clock: Clock, pts: int, dts: int) -> tuple[int | None, int | None, int | None]:
    packet: av.Packet[object] = av.Packet(b"x")
    packet.pts, packet.dts = pts, dts
    clock.restore(packet)
    assert packet.time_base == clock.time_base
    return packet.pts, packet.dts, packet.duration


def test_real_times_pass_unchanged() -> None:
    clock = Clock(TB, F(25))
    videos = stamps(clock, [3, 7, 2_000])
    assert [video.pts for video in videos] == [3, 7, 2_000]
    assert restored(clock, 7, -5) == (7, -5, 512)


def test_counting_encoder_gets_a_count_and_its_packets_get_the_times_back() -> None:
    clock = Clock(TB, F(25), counted=F(25))
    videos = stamps(clock, [3, 7, 2_000, 2_001])
    assert [video.pts for video in videos] == [0, 1, 2, 3]
    assert videos[0].time_base == F(1, 25)
    # As with one B-frame: decoded 0 2 1 3, one step of delay.
    assert restored(clock, 0, -1) == (3, 3 - 512, 512)
    assert restored(clock, 2, 0) == (2_000, 3, 512)
    assert restored(clock, 1, 1) == (7, 7, 512)
    assert restored(clock, 3, 2) == (2_001, 2_000, 512)


def test_decoding_times_that_cannot_be_are_replaced_in_order() -> None:
    clock = Clock(TB, F(25))
    stamps(clock, [0, 512, 1_024])
    garbage = 7_740_398_493_674_204_012
    dts = [restored(clock, pts, bad)[1] for pts, bad in ((0, garbage), (1_024, -garbage), (512, 3))]
    assert dts == [-2, -1, 3]


def test_shift_is_exact() -> None:
    clock = Clock(F(1, 30_000), F(30), shift_s=F(-3_600))
    (video,) = stamps(clock, [108_001_001], time_base=F(1, 30_000))
    assert video.pts == 1_001


def test_times_that_do_not_grow_are_moved_and_counted() -> None:
    clock = Clock(TB, F(25))
    assert [v.pts for v in stamps(clock, [0, 0, 5, 3])] == [0, 1, 5, 6]
    assert clock.moved == 2


def test_frames_without_times_follow_at_the_rate() -> None:
    clock = Clock(TB, F(25))
    assert [v.pts for v in stamps(clock, [None, None, 2_048, None])] == [0, 512, 2_048, 2_560]


def test_constant_rate_takes_the_nearest_free_step() -> None:
    clock = Clock(TB, F(25), constant=True)
    assert [v.pts for v in stamps(clock, [0, 500, 1_030, 1_040])] == [0, 1, 2, 3]
    assert (clock.rounded, clock.moved) == (3, 0)


@pytest.mark.parametrize("base", [F(1, 90_000), F(1_001, 24_000)])
def test_another_time_base_on_the_way_is_converted(base: F) -> None:
    clock = Clock(base, F(24))
    frame = make_frame(0, 1, time_base=F(1, 2))
    video = av.VideoFrame(16, 16, "yuv420p")
    clock.stamp(frame, video)
    assert video.pts == round(F(1, 2) / base)
