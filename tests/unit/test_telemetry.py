from __future__ import annotations

import json
import threading
import time
from bisect import bisect_left
from dataclasses import FrozenInstanceError

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from streamseg.abc import SinkStatistics
from streamseg.telemetry import (
    BUCKETS_MS,
    LoopLagMonitor,
    PipelineStatistics,
    StageTimer,
    StageTimes,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def run_timer(timer: StageTimer, clock: Clock, *, seconds: float, ms: float, fps: int = 30) -> None:
    for _ in range(round(seconds * fps)):
        clock.now_s += 1 / fps
        timer.add(ms)


def test_before_anything_happened_everything_is_zero() -> None:
    nothing = PipelineStatistics()
    assert nothing.fps == nothing.recent_fps == nothing.in_flight == 0
    assert StageTimer().times().count == StageTimer().window(10).count == 0
    assert StageTimer().times().p99_ms == StageTimer().times().mean_ms == 0
    assert sum(StageTimer().times().buckets) == 0
    report = json.loads(json.dumps(nothing.to_json()))
    assert report["dropped"] == report["stages"] == report["sinks"] == {}
    assert report["first_frame_s"] is None
    assert set(report["loop_lag"].values()) == {0}


def test_elapsed_time_without_a_frame_has_no_rate() -> None:
    statistics = PipelineStatistics(elapsed_s=5, recent={"total": StageTimer().window(5)})
    assert statistics.fps == statistics.recent_fps == 0


def test_percentiles_are_of_the_last_ten_thousand_and_counts_of_all() -> None:
    timer = StageTimer()
    values = np.random.default_rng(3).gamma(4, 12, 25_000)
    for value in values.tolist():
        timer.add(value)

    times = timer.times()

    last = values[-10_000:]
    assert [times.p50_ms, times.p95_ms, times.p99_ms, times.max_ms] == pytest.approx(
        np.percentile(last, (50, 95, 99, 100))
    )
    assert times.count == sum(times.buckets) == 25_000
    assert times.sum_ms == pytest.approx(values.sum())
    assert times.mean_ms == pytest.approx(values.mean())
    edges = np.array([0, *BUCKETS_MS, np.inf])
    assert list(times.buckets) == np.histogram(values, edges)[0].tolist()


def test_a_time_on_a_bound_is_in_the_bucket_below() -> None:
    timer = StageTimer()
    for bound in BUCKETS_MS:
        timer.add(bound)
    timer.add(BUCKETS_MS[-1] + 1)
    assert timer.times().buckets == (1,) * (len(BUCKETS_MS) + 1)


def test_the_beginning_and_the_end_of_ten_minutes_can_be_compared() -> None:
    clock = Clock()
    timer = StageTimer(clock=clock)
    run_timer(timer, clock, seconds=60, ms=20)
    first_minute_s = clock.now_s
    beginning = timer.window(60)
    run_timer(timer, clock, seconds=120, ms=30)
    assert timer.window(60, until_s=first_minute_s).p99_ms == beginning.p99_ms == 20
    run_timer(timer, clock, seconds=420, ms=50)
    end = timer.window(60)

    assert beginning.count == 1_800
    assert (end.p50_ms, end.p99_ms) == (50, 50)
    assert end.count == pytest.approx(1_800, abs=1), "the clock's sums are rounded"
    assert end.rate_per_s == pytest.approx(30, rel=0.001)
    assert timer.window(60, until_s=first_minute_s).count == 0, "long forgotten"
    assert timer.times().count == 18_000


def test_rate_is_right_from_the_second_time_on_and_falls_when_nothing_comes() -> None:
    clock = Clock()
    timer = StageTimer(clock=clock)
    assert timer.window(5).rate_per_s == 0
    timer.add(1)
    assert timer.window(5).rate_per_s == 0
    run_timer(timer, clock, seconds=1, ms=1)
    assert timer.window(5).rate_per_s == pytest.approx(30)
    run_timer(timer, clock, seconds=9, ms=1)
    assert timer.window(5).rate_per_s == pytest.approx(30, rel=0.01)
    clock.now_s += 2.5
    assert timer.window(5).rate_per_s == pytest.approx(15, rel=0.02)
    clock.now_s += 60
    assert timer.window(5) == StageTimes()


def test_nothing_is_lost_when_threads_add_and_others_read() -> None:
    timer = StageTimer(kept=100)
    each, threads = 5_000, 4
    running = threading.Event()

    def add() -> None:
        running.wait()
        for _ in range(each):
            timer.add(3.0)

    adders = [threading.Thread(target=add) for _ in range(threads)]
    for adder in adders:
        adder.start()
    running.set()
    while any(adder.is_alive() for adder in adders):
        times = timer.times()
        assert times.count == sum(times.buckets)
        assert times.sum_ms == times.count * 3.0
        assert times.max_ms in (0.0, 3.0)
    for adder in adders:
        adder.join()

    assert timer.times().count == each * threads


def test_adding_is_cheap_enough_for_every_frame_of_every_stage() -> None:
    timer = StageTimer()
    best_s = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(10_000):
            timer.add(33.3)
        best_s = min(best_s, (time.perf_counter() - started) / 10_000)
    assert best_s < 5e-6, "0.4 µs were measured; this is for slow machines"


def test_a_block_that_fails_has_no_time() -> None:
    timer = StageTimer()
    with timer.measure():
        pass
    with pytest.raises(ValueError, match="broke"), timer.measure():
        raise ValueError("broke")
    assert timer.times().count == 1


def test_every_frame_is_in_one_place() -> None:
    statistics = PipelineStatistics(frames_in=100, frames_out=90, dropped={"a": 5, "b": 2})
    assert statistics.in_flight == 3
    assert statistics.to_json()["in_flight"] == 3


def test_recent_rate_is_that_of_delivered_frames() -> None:
    recent = StageTimes(rate_per_s=24.0, count=120)
    statistics = PipelineStatistics(frames_out=300, elapsed_s=10, recent={"total": recent})
    assert (statistics.fps, statistics.recent_fps) == (30, 24)
    assert PipelineStatistics(frames_out=300, elapsed_s=10).recent_fps == 30


def test_json_has_each_sink_with_its_bytes_where_known() -> None:
    statistics = PipelineStatistics(
        sinks={"null": SinkStatistics(4, 4), "a.mp4": SinkStatistics(4, 3, {"disk_full": 1}, 2)},
        sink_bytes={"a.mp4": 77},
    )
    assert statistics.to_json()["sinks"] == {
        "null": {"accepted": 4, "written": 4, "dropped": {}, "reconnects": 0},
        "a.mp4": {
            "accepted": 4,
            "written": 3,
            "dropped": {"disk_full": 1},
            "reconnects": 2,
            "bytes": 77,
        },
    }


def test_names_of_sinks_keep_no_credentials_and_stay_apart() -> None:
    one, two = "rtmp://me:geheim@host/live", "rtmp://me:secreto@host/live"
    statistics = PipelineStatistics(
        sinks={one: SinkStatistics(1, 1), two: SinkStatistics(2, 2), "display": SinkStatistics()},
        sink_bytes={two: 5},
        queues={one: 3},
    )
    for text in (repr(statistics), json.dumps(statistics.to_json())):
        assert "geheim" not in text
        assert "secreto" not in text
    first, second, third = statistics.sinks
    assert "host/live" in first
    assert third == "display"
    assert first != second
    assert [sink.accepted for sink in statistics.sinks.values()] == [1, 2, 0]
    assert statistics.sink_bytes == {second: 5}
    assert statistics.queues == {first: 3}


def test_statistics_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        PipelineStatistics().frames_in = 3  # type: ignore[misc]


def block(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.anyio
async def test_a_blocked_loop_is_seen_with_its_length() -> None:
    async with LoopLagMonitor(interval_s=0.01) as monitor:
        with anyio.fail_after(5):
            while monitor.times().count < 3:
                await anyio.sleep(0.005)
            before = monitor.times().count
            block(0.15)
            while monitor.times().count == before:
                await anyio.lowlevel.checkpoint()
    assert 140 <= monitor.times().max_ms < 1_000
    assert monitor.times().buckets[bisect_left(BUCKETS_MS, monitor.times().max_ms)] >= 1


@pytest.mark.anyio
async def test_the_monitor_measures_no_more_after_it_is_closed() -> None:
    timer = StageTimer()
    monitor = LoopLagMonitor(timer, interval_s=0.001)
    async with monitor:
        with anyio.fail_after(5):
            while not timer.times().count:
                await anyio.sleep(0.001)
    measured = timer.times().count
    await monitor.aclose()
    await anyio.sleep(0.02)  # 20 intervals: what must not happen has no event to wait for
    assert timer.times().count == measured
