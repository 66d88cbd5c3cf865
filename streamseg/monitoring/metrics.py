"""Statistics in the format of Prometheus.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ and, for names and units,
https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from streamseg import __version__
from streamseg.telemetry import BUCKETS_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from streamseg.telemetry import PipelineStatistics, StageTimes

__all__ = ["StatisticsCollector", "render"]

_BOUNDS = (*(repr(bound / 1e3) for bound in BUCKETS_MS), "+Inf")


def render(statistics: PipelineStatistics, accept: str = "") -> tuple[str, bytes]:
    """Return one page of metrics.

    Args:
        statistics: What to show; besides it the page has the memory, the processor time and the
            open files of this process, where the system tells them.
        accept: The ``Accept`` header of who asks: OpenMetrics or the plain text format.

    Returns:
        Content type and body.
    """
    registry = CollectorRegistry()  # not the global one, which other code may have filled
    registry.register(StatisticsCollector(statistics))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


class StatisticsCollector(Collector):
    """Metrics of one moment's statistics."""

    def __init__(self, statistics: PipelineStatistics) -> None:
        self._statistics = statistics

    def describe(self) -> list[Metric]:
        """Return nothing: registering must not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with all its label values."""
        now = self._statistics
        yield InfoMetricFamily(
            "streamseg_pipeline",
            "What is in use.",
            {"version": __version__, **{_label(k): v for k, v in now.settings.items()}},
        )
        yield _counter("frames_captured", "Frames that the source had.", now.frames_in)
        yield _counter("frames_delivered", "Frames handed to the sinks.", now.frames_out)
        yield _counters("frames_dropped", "Frames never handed to the sinks.", "cause", now.dropped)
        yield _counter("frames_hidden", "Delivered frames hidden for want of a mask.", now.hidden)
        yield _counter("frames_reused", "Delivered frames with an earlier mask.", now.reused)
        yield _counter("source_reconnects", "Connections of the source made again.", now.reconnects)
        yield _counter("worker_restarts", "Model processes started again.", now.worker_restarts)
        yield _gauge("frames_in_flight", "Frames between source and sinks.", now.in_flight)
        yield _gauge("elapsed_seconds", "Time since the pipeline began.", now.elapsed_s)
        queues = GaugeMetricFamily(
            "streamseg_queue_depth", "What waits in each queue.", labels=["queue"]
        )
        for name, depth in now.queues.items():
            queues.add_metric([name], depth)
        yield queues
        stages = HistogramMetricFamily(
            "streamseg_stage_seconds", "Times of each stage, a frame.", labels=["stage"]
        )
        for name, times in now.stages.items():
            stages.add_metric([name], _buckets(times), times.sum_ms / 1e3)
        yield stages
        lag = HistogramMetricFamily(
            "streamseg_loop_lag_seconds", "How late the event loop was.", labels=[]
        )
        lag.add_metric([], _buckets(now.loop_lag), now.loop_lag.sum_ms / 1e3)
        yield lag
        yield _gauge(
            "loop_lag_p99_seconds",
            "99th percentile of how late the event loop was lately.",
            now.loop_lag.p99_ms / 1e3,
        )
        yield from self._sinks()

    def _sinks(self) -> Iterator[Metric]:
        sinks = self._statistics.sinks
        accepted = {name: sink.accepted for name, sink in sinks.items()}
        written = {name: sink.written for name, sink in sinks.items()}
        reconnects = {name: sink.reconnects for name, sink in sinks.items()}
        yield _counters("sink_frames_accepted", "Frames that a sink took.", "sink", accepted)
        yield _counters("sink_frames_written", "Frames that reached its target.", "sink", written)
        dropped = CounterMetricFamily(
            "streamseg_sink_frames_dropped",
            "Frames that a sink took and dropped.",
            labels=["sink", "cause"],
        )
        for name, sink in sinks.items():
            for cause, count in sink.dropped.items():
                dropped.add_metric([name, cause], count)
        yield dropped
        yield _counters("sink_reconnects", "Connections of a sink made again.", "sink", reconnects)
        yield _counters(
            "sink_bytes", "Bytes that a sink wrote.", "sink", self._statistics.sink_bytes
        )


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"streamseg_{name}", text, value)


def _counters(name: str, text: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"streamseg_{name}", text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"streamseg_{name}", text, value)


def _buckets(times: StageTimes) -> list[tuple[str, float]]:
    counts = times.buckets or (0,) * len(_BOUNDS)
    return list(zip(_BOUNDS, map(float, accumulate(counts)), strict=True))


def _label(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)
