"""The metrics of a server: one page over all sessions, those that have ended included."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio.to_thread

from streamseg.abc import SinkStatistics
from streamseg.telemetry import PipelineStatistics, StageTimes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from streamseg.webrtc.sessions import SessionCounts

__all__ = ["merge_statistics", "render_server"]


async def render_server(
    statistics: PipelineStatistics,
    counts: SessionCounts,
    rooms: int,
    accept: str,
    *,
    adaptations: Mapping[str, int] | None = None,
) -> tuple[str, bytes]:
    """Return content type and body of one page of metrics.

    Args:
        statistics: Of all sessions together.
        counts: How many sessions there are.
        rooms: How many rooms have a publisher.
        accept: The ``Accept`` header of who asks.
        adaptations: Steps ``down`` and ``up`` of all sessions because the processor was short.
    """
    return await anyio.to_thread.run_sync(
        _render, statistics, counts, rooms, accept, adaptations or {}
    )


def _render(
    statistics: PipelineStatistics,
    counts: SessionCounts,
    rooms: int,
    accept: str,
    adaptations: Mapping[str, int],
) -> tuple[str, bytes]:
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    from streamseg.monitoring.metrics import StatisticsCollector

    class Server(Collector):
        def collect(self) -> Iterator[Metric]:
            sessions = GaugeMetricFamily(
                "streamseg_sessions", "Sessions at this moment.", labels=["kind"]
            )
            sessions.add_metric(["call"], counts.calls)
            sessions.add_metric(["publisher"], counts.publishers)
            sessions.add_metric(["viewer"], counts.viewers)
            yield sessions
            yield GaugeMetricFamily(
                "streamseg_sessions_pending",
                "Sessions whose connection is not standing yet.",
                counts.pending,
            )
            yield GaugeMetricFamily("streamseg_rooms", "Rooms with a publisher.", rooms)
            yield CounterMetricFamily(
                "streamseg_sessions_admitted", "Sessions so far.", counts.admitted
            )
            yield CounterMetricFamily(
                "streamseg_sessions_refused", "Sessions refused for want of room.", counts.refused
            )
            encoding = counts.encoding
            yield GaugeMetricFamily(
                "streamseg_room_encoders", "Encoders that rooms have.", encoding.encoders
            )
            yield CounterMetricFamily(
                "streamseg_room_pictures_encoded",
                "Pictures encoded for rooms, once for all viewers of an encoder.",
                encoding.encoded,
            )
            yield CounterMetricFamily(
                "streamseg_room_keyframes", "Those that are keyframes.", encoding.keyframes
            )
            lost = CounterMetricFamily(
                "streamseg_room_pictures_dropped",
                "Pictures that an encoder of a room or a viewer did without.",
                labels=["cause"],
            )
            for cause, count in sorted(encoding.dropped.items()):
                lost.add_metric([cause], count)
            yield lost
            steps = CounterMetricFamily(
                "streamseg_adaptations",
                "Steps to smaller or fewer pictures, and back, as the processor was short or not.",
                labels=["direction"],
            )
            for direction in ("down", "up"):
                steps.add_metric([direction], adaptations.get(direction, 0))
            yield steps

    registry = CollectorRegistry()
    registry.register(StatisticsCollector(statistics))
    registry.register(Server())
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


def merge_statistics(parts: Iterable[PipelineStatistics]) -> PipelineStatistics:
    """Return the sum of several pipelines' statistics.

    Counters and histograms are added up. Percentiles cannot be: they are the worst of the parts.
    Sinks are told apart by what they are, not by whose.
    """
    total = PipelineStatistics()
    for part in parts:
        sinks = dict(total.sinks)
        for name, sink in part.sinks.items():
            kind = name.partition(" ")[0]
            sinks[kind] = _add_sinks(sinks.get(kind, SinkStatistics()), sink)
        queues = Counter(total.queues)
        for name, depth in part.queues.items():
            queues[name.partition(" ")[0]] += depth
        total = replace(
            total,
            frames_in=total.frames_in + part.frames_in,
            frames_out=total.frames_out + part.frames_out,
            dropped=dict(Counter(total.dropped) + Counter(part.dropped)),
            hidden=total.hidden + part.hidden,
            reused=total.reused + part.reused,
            elapsed_s=max(total.elapsed_s, part.elapsed_s),
            stages=_add_stages(dict(total.stages), part.stages.items()),
            queues=dict(queues),
            reconnects=total.reconnects + part.reconnects,
            sinks=sinks,
        )
    return total


def _add_sinks(one: SinkStatistics, other: SinkStatistics) -> SinkStatistics:
    return SinkStatistics(
        one.accepted + other.accepted,
        one.written + other.written,
        dict(Counter(one.dropped) + Counter(other.dropped)),
        one.reconnects + other.reconnects,
        one.bytes_written + other.bytes_written,
    )


def _add_stages(
    total: dict[str, StageTimes], stages: Iterable[tuple[str, StageTimes]]
) -> dict[str, StageTimes]:
    for name, times in stages:
        before = total.get(name, StageTimes())
        size = max(len(before.buckets), len(times.buckets))
        pairs = zip(before.buckets or (0,) * size, times.buckets or (0,) * size, strict=True)
        total[name] = StageTimes(
            p50_ms=max(before.p50_ms, times.p50_ms),
            p95_ms=max(before.p95_ms, times.p95_ms),
            p99_ms=max(before.p99_ms, times.p99_ms),
            max_ms=max(before.max_ms, times.max_ms),
            rate_per_s=before.rate_per_s + times.rate_per_s,
            count=before.count + times.count,
            sum_ms=before.sum_ms + times.sum_ms,
            buckets=tuple(one + other for one, other in pairs),
        )
    return total
