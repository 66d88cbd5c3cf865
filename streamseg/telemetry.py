"""What a pipeline counts and times."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["PipelineStatistics", "StageTimer", "StageTimes"]

_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Times of one stage over its last 10,000 frames, in milliseconds."""

    p50_ms: float = 0.0
    p95_ms: float = 0.0
    max_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class PipelineStatistics:
    """What a pipeline did so far.

    Attributes:
        frames_in: Frames that the source delivered.
        frames_out: Frames that every sink has accepted.
        dropped: Frames that were dropped, by cause.
        elapsed_s: Time since ``run`` began, in seconds.
        first_frame_s: Time from the start of ``run`` to the first frame out, None before that.
        stages: Stage -> times. ``read`` is waiting for the source, ``segment`` the model with its
            way there and back, ``model`` the model alone, ``effect`` mask filters and effect,
            ``write`` waiting for the sinks, ``total`` from decoded to accepted by the sinks.
        worker_restarts: Model processes that had to be started again.
        notices: What the user should know, a line each.
    """

    frames_in: int = 0
    frames_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    first_frame_s: float | None = None
    stages: Mapping[str, StageTimes] = field(default_factory=dict)
    worker_restarts: int = 0
    notices: tuple[str, ...] = ()

    @property
    def fps(self) -> float:
        """Frames out per second of elapsed time."""
        return self.frames_out / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values, times rounded to microseconds."""
        return {
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "dropped": dict(self.dropped),
            "elapsed_s": round(self.elapsed_s, 3),
            "first_frame_s": None if self.first_frame_s is None else round(self.first_frame_s, 3),
            "fps": round(self.fps, 2),
            "stages": {
                name: {
                    "p50_ms": round(times.p50_ms, 3),
                    "p95_ms": round(times.p95_ms, 3),
                    "max_ms": round(times.max_ms, 3),
                }
                for name, times in self.stages.items()
            },
            "worker_restarts": self.worker_restarts,
            "notices": list(self.notices),
        }


class StageTimer:
    """Collects the times of one stage; bounded: old ones are forgotten."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_KEPT)

    def add(self, ms: float) -> None:
        """Add one time in milliseconds."""
        self._values.append(ms)

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Add the time that the block takes."""
        started = time.perf_counter()
        yield
        self.add((time.perf_counter() - started) * 1e3)

    def times(self) -> StageTimes:
        """Return percentiles of what was collected."""
        if not self._values:
            return StageTimes()
        p50, p95, top = np.percentile(np.fromiter(self._values, float), (50, 95, 100))
        return StageTimes(float(p50), float(p95), float(top))
