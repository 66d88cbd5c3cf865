"""Records: what a pipeline counts and times of itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from streamseg.flow import FlowCounts
from streamseg.telemetry import RECENT_S, LoopLagMonitor, PipelineStatistics, StageTimer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.abc import Sink, Source
    from streamseg.engine.outlet import Outlet
    from streamseg.flow import FlowLimiter, Ticket
    from streamseg.telemetry import StageTimes

__all__ = ["Records"]

_STAGES = ("read", "segment", "model", "effect", "write", "total")


class Records:
    """Times of the stages, and when the run began, showed its first picture, and ended."""

    def __init__(self) -> None:
        self.timers = {stage: StageTimer() for stage in _STAGES}
        self.lag = LoopLagMonitor()
        self.settings: dict[str, str] = {}
        self.frames_out = 0
        self._started_s = 0.0
        self._ended_s: float | None = None
        self._first_frame_s: float | None = None

    def begin(self) -> None:
        """Note the beginning of the run."""
        self._started_s = anyio.current_time()
        self._ended_s = None

    def end(self) -> None:
        """Note its end."""
        self._ended_s = anyio.current_time()

    def shown(self, ticket: Ticket) -> None:
        """Note that a frame has come to its end."""
        now = anyio.current_time()
        self.timers["total"].add((now - ticket.frame.captured_s) * 1e3)
        if self._first_frame_s is None:
            self._first_frame_s = now - self._started_s

    def window(self, seconds: float) -> dict[str, StageTimes]:
        """Return the times of each stage in the last seconds, see ``StageTimer.window``."""
        return {stage: timer.window(seconds) for stage, timer in self.timers.items()}

    def statistics(
        self,
        source: Source,
        limiter: FlowLimiter | None,
        sinks: Sequence[Sink],
        outlets: Sequence[Outlet],
        *,
        restarts: int,
        recent: bool,
    ) -> PipelineStatistics:
        """Return everything of this moment, what the parts know themselves included.

        Args:
            source: Of the pipeline.
            limiter: Of the run, None before it.
            sinks: Of the pipeline.
            outlets: Of the run.
            restarts: Of model processes.
            recent: Whether the last seconds are to be told apart.
        """
        captured = source.statistics()
        counts, queues = FlowCounts(), {}
        if limiter is not None:
            counts = limiter.counts
            queues = limiter.depths
        names = _names(sinks)
        told = {names[sink]: sink.statistics() for sink in sinks}
        for outlet in outlets:
            name = names[outlet.sink]
            queues[name] = len(outlet)
            both = Counter(told[name].dropped) + outlet.dropped
            told[name] = replace(told[name], dropped=dict(both))
        ended_s = self._ended_s
        if ended_s is None:
            ended_s = anyio.current_time() if self._started_s else 0.0
        parts: tuple[Source | Sink, ...] = (source, *sinks)
        return PipelineStatistics(
            frames_in=captured.captured,
            frames_out=self.frames_out,
            dropped=dict(Counter(captured.dropped) + counts.dropped),
            hidden=counts.hidden,
            reused=counts.reused,
            elapsed_s=ended_s - self._started_s if self._started_s else 0.0,
            first_frame_s=self._first_frame_s,
            stages={stage: timer.times() for stage, timer in self.timers.items()},
            recent=self.window(RECENT_S) if recent else {},
            loop_lag=self.lag.times(),
            queues=queues,
            reconnects=captured.reconnects,
            sinks=told,
            sink_bytes={
                name: sink.bytes_written for name, sink in told.items() if sink.bytes_written
            },
            settings=self.settings,
            worker_restarts=restarts,
            notices=tuple(notice for part in parts for notice in part.notices),
        )


def _names(sinks: Sequence[Sink]) -> dict[Sink, str]:
    """Return a name for each sink, different ones for two of a kind."""
    names: dict[Sink, str] = {}
    for sink in sinks:
        name = sink.name or type(sink).__name__
        alike = sum(other.partition(" #")[0] == name for other in names.values())
        names[sink] = f"{name} #{alike + 1}" if alike else name
    return names
