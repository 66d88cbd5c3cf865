"""Statistics to show."""

from __future__ import annotations

from streamseg.abc import SinkStatistics
from streamseg.telemetry import PipelineStatistics, StageTimer


def timed(*values_ms: float) -> StageTimer:
    timer = StageTimer()
    for value in values_ms:
        timer.add(value)
    return timer


def running() -> PipelineStatistics:
    """A live pipeline in its second minute, with everything in it that can be."""
    total = timed(33.0, 34.0, 41.0)
    return PipelineStatistics(
        frames_in=2_200,
        frames_out=2_160,
        dropped={"model_busy": 30, "source_busy": 8},
        hidden=5,
        reused=7,
        elapsed_s=73.0,
        first_frame_s=1.0,
        stages={"total": total.times(), "model": timed(9.0).times(), "write": timed().times()},
        recent={"total": total.window(1e6)},
        loop_lag=timed(0.15, 12.0).times(),
        queues={"model": 1, "record.mp4": 3},
        reconnects=2,
        worker_restarts=1,
        sinks={
            "display": SinkStatistics(2_160, 2_150, {"display_busy": 10}),
            "rtmp://me:geheim@host/live": SinkStatistics(2_160, 2_160, {}, 4),
        },
        sink_bytes={"rtmp://me:geheim@host/live": 21_600_000},
        settings={"effect": "blur", "model": "selfie"},
        notices=("the source has no sound",),
    )
