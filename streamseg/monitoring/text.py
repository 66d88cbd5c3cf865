"""Statistics in a few words: for a line on the terminal, and for the picture itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamseg.telemetry import PipelineStatistics

__all__ = ["clock_text", "drops_text", "latency_text", "overlay_text", "status_text"]


def overlay_text(statistics: PipelineStatistics) -> str:
    """Return a few short lines for the on-screen display.

    For example::

        29.9 fps  34 ms (p95 41)
        dropped 3 (model busy)
        blur
    """
    if not statistics.frames_out:
        return "waiting for the first frame"
    speed = f"{statistics.recent_fps:.1f} fps  {latency_text(statistics)}"
    lines = [speed.rstrip(), drops_text(statistics.dropped)]
    if effect := statistics.settings.get("effect"):
        lines.append(effect)
    lines += _troubles(statistics)
    return "\n".join(lines)


def status_text(statistics: PipelineStatistics, rates: Mapping[str, float] | None = None) -> str:
    """Return one line, what matters most first.

    For example::

        live 29.9 fps | 34 ms (p95 41) | dropped 3 (model busy) | blur | rec 00:01:12 2.4 Mbit/s

    Args:
        statistics: What to tell.
        rates: Sink -> bits a second that it writes now.
    """
    if not statistics.frames_out:
        parts = ["live: waiting for the first frame"]
        if statistics.elapsed_s >= 1:
            parts.append(f"{statistics.elapsed_s:.0f} s")
        if statistics.dropped:
            parts.append(drops_text(statistics.dropped))
    else:
        parts = [f"live {statistics.recent_fps:.1f} fps"]
        if latency := latency_text(statistics):
            parts.append(latency)
        parts.append(drops_text(statistics.dropped))
    if effect := statistics.settings.get("effect"):
        parts.append(effect)
    if rates and statistics.first_frame_s is not None:
        recorded = clock_text(statistics.elapsed_s - statistics.first_frame_s)
        parts.append(f"rec {recorded} {sum(rates.values()) / 1e6:.1f} Mbit/s")
    return " | ".join(parts + _troubles(statistics))


def latency_text(statistics: PipelineStatistics) -> str:
    """Return how old a picture is when the sinks have it, ``34 ms (p95 41)``; empty if unknown."""
    times = statistics.recent.get("total") or statistics.stages.get("total")
    if times is None or not times.count:
        return ""
    return f"{times.p50_ms:.0f} ms (p95 {times.p95_ms:.0f})"


def drops_text(dropped: Mapping[str, int]) -> str:
    """Return how many were dropped and why, the most frequent cause first."""
    causes = sorted(((n, cause) for cause, n in dropped.items() if n), key=lambda each: -each[0])
    if not causes:
        return "dropped 0"
    names = [(count, cause.replace("_", " ")) for count, cause in causes]
    if len(names) == 1:
        return f"dropped {names[0][0]} ({names[0][1]})"
    told = ", ".join(f"{name} {count}" for count, name in names)
    return f"dropped {sum(count for count, _ in names)} ({told})"


def clock_text(seconds: float) -> str:
    """Return a length of time as ``HH:MM:SS``."""
    whole = max(0, int(seconds))
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _troubles(statistics: PipelineStatistics) -> list[str]:
    """Return what should be zero and is not; reused masks are no trouble but a policy."""
    told = [
        ("hidden", statistics.hidden),
        ("reconnects", statistics.reconnects),
        ("model restarts", statistics.worker_restarts),
    ]
    parts = [f"{name} {count}" for name, count in told if count]
    for name, sink in statistics.sinks.items():
        if count := sum(sink.dropped.values()):
            parts.append(f"{name} dropped {count}")
    return parts
