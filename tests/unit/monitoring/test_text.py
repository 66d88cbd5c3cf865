from __future__ import annotations

import dataclasses

import pytest

from streamseg.monitoring.text import clock_text, drops_text, overlay_text, status_text
from streamseg.telemetry import PipelineStatistics, StageTimes
from tests.unit.monitoring.examples import running

RECENT = {"total": StageTimes(34.2, 41.4, 44.0, 50.0, 29.94, 150, 5_100.0)}
CALM = dataclasses.replace(
    running(),
    recent=RECENT,
    dropped={"model_busy": 3},
    hidden=0,
    reconnects=0,
    worker_restarts=0,
    sinks={},
)


def test_status_line_of_a_calm_pipeline() -> None:
    assert status_text(CALM, {"a.mp4": 2.4e6}) == (
        "live 29.9 fps | 34 ms (p95 41) | dropped 3 (model busy) | blur | rec 00:01:12 2.4 Mbit/s"
    )


def test_status_line_tells_what_went_wrong_last() -> None:
    line = status_text(dataclasses.replace(running(), recent=RECENT))
    assert line == (
        "live 29.9 fps | 34 ms (p95 41) | dropped 38 (model busy 30, source busy 8) | blur"
        " | hidden 5 | reconnects 2 | model restarts 1 | display dropped 10"
    )


def test_overlay_of_a_calm_pipeline() -> None:
    assert overlay_text(CALM).splitlines() == [
        "29.9 fps  34 ms (p95 41)",
        "dropped 3 (model busy)",
        "blur",
    ]


@pytest.mark.parametrize(
    "statistics",
    [
        PipelineStatistics(),
        PipelineStatistics(frames_in=3, elapsed_s=0.2),
        PipelineStatistics(recent={"total": StageTimes()}, stages={"total": StageTimes()}),
    ],
)
def test_before_the_first_frame_both_say_so(statistics: PipelineStatistics) -> None:
    assert status_text(statistics) == "live: waiting for the first frame"
    assert overlay_text(statistics) == "waiting for the first frame"


def test_waiting_tells_how_long_and_what_was_dropped_meanwhile() -> None:
    statistics = PipelineStatistics(frames_in=60, dropped={"no_mask": 60}, elapsed_s=2.2)
    assert status_text(statistics) == (
        "live: waiting for the first frame | 2 s | dropped 60 (no mask)"
    )


def test_frames_without_times_are_told_without_latency() -> None:
    statistics = PipelineStatistics(frames_in=9, frames_out=9, elapsed_s=3)
    assert status_text(statistics) == "live 3.0 fps | dropped 0"
    assert overlay_text(statistics) == "3.0 fps\ndropped 0"


def test_causes_that_did_not_occur_are_not_told() -> None:
    assert drops_text({"a": 0, "b": 0}) == "dropped 0"
    assert drops_text({"a": 0, "b_c": 2}) == "dropped 2 (b c)"
    assert drops_text({"a": 1, "b": 2, "c": 0}) == "dropped 3 (b 2, a 1)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00:00"),
        (-1, "00:00:00"),
        (59.9, "00:00:59"),
        (3_725, "01:02:05"),
        (360_000, "100:00:00"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
