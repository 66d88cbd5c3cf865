"""What a pipeline counts and times.

Everything here is cheap enough to be called for every frame: a `StageTimer` takes under a
microsecond to add to and holds a fixed amount of memory, however long the pipeline runs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from array import array
from bisect import bisect_left
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from streamseg.abc import Resource
from streamseg.redact import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from streamseg.abc import SinkStatistics

__all__ = [
    "BUCKETS_MS",
    "RECENT_S",
    "LoopLagMonitor",
    "PipelineStatistics",
    "StageTimer",
    "StageTimes",
]

RECENT_S = 5.0
"""How far back ``PipelineStatistics.recent`` looks: long enough to be read, short enough to show
what happens now."""

BUCKETS_MS = (
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0),
    *(150.0, 200.0, 300.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0),
)
"""Upper bounds, inclusive, of the histogram's buckets in milliseconds; one more has what is above.
They are densest where a live picture is judged: between one and three frames of 30 a second."""

_KEPT = 10_000  # 5.5 minutes at 30 frames a second; 160 kB a timer


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Times of one stage, in milliseconds; all zero when there were none.

    Percentiles, ``max_ms`` and ``rate_per_s`` are of a part of the run: the last 10,000 times, or
    the window asked for. What is counted there depends on who made it, see `StageTimer`.

    Attributes:
        p50_ms: Median.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        max_ms: Longest.
        rate_per_s: Times a second.
        count: Number of times.
        sum_ms: Their sum.
        buckets: Number of times in each bucket of `BUCKETS_MS` and above the last, not cumulated;
            empty where no histogram was asked for.
    """

    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    rate_per_s: float = 0.0
    count: int = 0
    sum_ms: float = 0.0
    buckets: tuple[int, ...] = field(default=(), repr=False)

    @property
    def mean_ms(self) -> float:
        """Mean of all times that were counted."""
        return self.sum_ms / self.count if self.count else 0.0

    def to_json(self) -> dict[str, float]:
        """Return plain values, times rounded to microseconds; the histogram is left out."""
        return {
            "count": self.count,
            "mean_ms": round(self.mean_ms, 3),
            "p50_ms": round(self.p50_ms, 3),
            "p95_ms": round(self.p95_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "max_ms": round(self.max_ms, 3),
        }


@dataclass(frozen=True, slots=True)
class PipelineStatistics:
    """What a pipeline did so far.

    Every frame is in exactly one place: ``frames_in == frames_out + sum(dropped) + in_flight``.
    Frames that a sink drops after it accepted them are in its own statistics. Credentials in the
    names of sinks and queues are hidden on the way in.

    Attributes:
        frames_in: Frames captured: all that the source had.
        frames_out: Frames delivered: handed to the sinks.
        dropped: Frames that never came to the sinks, by cause.
        hidden: Delivered frames that had no usable mask and were hidden as a whole.
        reused: Delivered frames that were shown with the mask of an earlier frame.
        elapsed_s: Time since ``run`` began, in seconds.
        first_frame_s: Time from the start of ``run`` to the first frame out, None before that.
        stages: Stage -> times. ``read`` is waiting for the source, ``segment`` the model with its
            way there and back, ``model`` the model alone, ``effect`` mask filters and effect,
            ``write`` waiting for the sinks, ``total`` from decoded to accepted by the sinks.
        recent: The same over the last seconds (`RECENT_S`); empty where nobody looks on.
        loop_lag: How late the event loop was.
        queues: Queue -> what waits in it.
        reconnects: How often the source's connection was made again.
        worker_restarts: Model processes that had to be started again.
        sinks: Sink -> what it did.
        sink_bytes: Sink -> bytes that it wrote, for sinks that know it.
        settings: What is in use now: ``model``, ``effect`` and the like.
        notices: What the user should know, a line each.
    """

    frames_in: int = 0
    frames_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    hidden: int = 0
    reused: int = 0
    elapsed_s: float = 0.0
    first_frame_s: float | None = None
    stages: Mapping[str, StageTimes] = field(default_factory=dict)
    recent: Mapping[str, StageTimes] = field(default_factory=dict)
    loop_lag: StageTimes = StageTimes()
    queues: Mapping[str, int] = field(default_factory=dict)
    reconnects: int = 0
    worker_restarts: int = 0
    sinks: Mapping[str, SinkStatistics] = field(default_factory=dict)
    sink_bytes: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = _public(dict.fromkeys((*self.sinks, *self.sink_bytes, *self.queues)))
        if names:
            for attribute in ("sinks", "sink_bytes", "queues"):
                values = getattr(self, attribute)
                renamed = {names.get(name, name): value for name, value in values.items()}
                object.__setattr__(self, attribute, renamed)

    @property
    def in_flight(self) -> int:
        """Frames that are between the source and the sinks."""
        return self.frames_in - self.frames_out - sum(self.dropped.values())

    @property
    def fps(self) -> float:
        """Frames out per second of elapsed time."""
        return self.frames_out / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def recent_fps(self) -> float:
        """Frames out per second in the last seconds; over the whole run where nobody looks on."""
        total = self.recent.get("total")
        return self.fps if total is None else total.rate_per_s

    def to_json(self) -> dict[str, Any]:
        """Return plain values, times rounded to microseconds."""
        return {
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "dropped": dict(self.dropped),
            "in_flight": self.in_flight,
            "hidden": self.hidden,
            "reused": self.reused,
            "elapsed_s": round(self.elapsed_s, 3),
            "first_frame_s": None if self.first_frame_s is None else round(self.first_frame_s, 3),
            "fps": round(self.fps, 2),
            "recent_fps": round(self.recent_fps, 2),
            "stages": {name: times.to_json() for name, times in self.stages.items()},
            "recent": {name: times.to_json() for name, times in self.recent.items()},
            "loop_lag": self.loop_lag.to_json(),
            "queues": dict(self.queues),
            "reconnects": self.reconnects,
            "worker_restarts": self.worker_restarts,
            "sinks": {
                name: {
                    "accepted": sink.accepted,
                    "written": sink.written,
                    "dropped": dict(sink.dropped),
                    "reconnects": sink.reconnects,
                    **({"bytes": self.sink_bytes[name]} if name in self.sink_bytes else {}),
                }
                for name, sink in self.sinks.items()
            },
            "settings": dict(self.settings),
            "notices": list(self.notices),
        }


def _public(names: Iterable[str]) -> dict[str, str]:
    """Return other names for those with credentials, apart from each other: two may differ in them.

    Most pipelines have none, and statistics are made for every line that is drawn.
    """
    public: dict[str, str] = {}
    for name in names:
        if "://" in name and (hidden := redact(name)) != name:
            alike = sum(other.partition(" #")[0] == hidden for other in public.values())
            public[name] = f"{hidden} #{alike + 1}" if alike else hidden
    return public


class StageTimer:
    """Collects the times of one stage; may be added to and read from any thread.

    Its memory is taken once: the last ``kept`` times for percentiles, and a histogram of all.

    Args:
        kept: How many times percentiles may look back on.
        clock: Where the time of an entry comes from, in seconds.
    """

    def __init__(self, *, kept: int = _KEPT, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept = kept
        self._clock = clock
        self._lock = threading.Lock()
        self._values = array("d", bytes(8 * kept))
        self._added_s = array("d", bytes(8 * kept))
        self._count = 0
        self._sum_ms = 0.0
        self._buckets = [0] * (len(BUCKETS_MS) + 1)

    def add(self, ms: float) -> None:
        """Add one time in milliseconds."""
        with self._lock:
            place = self._count % self._kept
            self._values[place] = ms
            self._added_s[place] = self._clock()
            self._count += 1
            self._sum_ms += ms
            self._buckets[bisect_left(BUCKETS_MS, ms)] += 1

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Add the time that the block takes, unless it fails."""
        started = time.perf_counter()
        yield
        self.add((time.perf_counter() - started) * 1e3)

    def times(self) -> StageTimes:
        """Return percentiles of the last 10,000 times; count, sum and histogram are of all."""
        with self._lock:
            values, added_s = self._copy()
            count, sum_ms, buckets = self._count, self._sum_ms, tuple(self._buckets)
        now = self._clock()
        span_s = now - float(added_s.min()) if len(values) else 0.0
        return _summarise(values, span_s, len(values) - 1, count, sum_ms, buckets)

    def window(self, seconds: float, *, until_s: float | None = None) -> StageTimes:
        """Return everything of the last seconds alone, without a histogram.

        Args:
            seconds: How far to look back; no further than the last 10,000 times.
            until_s: Where to look back from, as the clock tells it; None is now.
        """
        with self._lock:
            values, added_s = self._copy()
        end = self._clock() if until_s is None else until_s
        start = end - seconds
        inside = values[(added_s > start) & (added_s <= end)]
        oldest = float(added_s.min()) if len(added_s) else end
        # Nothing is known of the time before the oldest entry, which then only starts the clock.
        known = oldest <= start
        intervals = len(inside) if known else len(inside) - 1
        span_s = seconds if known else end - oldest
        return _summarise(inside, span_s, intervals, len(inside), float(inside.sum()), ())

    def _copy(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return what is kept, in any order; the lock must be held."""
        used = min(self._count, self._kept)
        return (
            np.frombuffer(self._values, float, used).copy(),
            np.frombuffer(self._added_s, float, used).copy(),
        )


def _summarise(
    values: np.ndarray[Any, Any],
    span_s: float,
    intervals: int,
    count: int,
    sum_ms: float,
    buckets: tuple[int, ...],
) -> StageTimes:
    if not len(values):
        return StageTimes(count=count, sum_ms=sum_ms, buckets=buckets)
    # Sorting costs a third of np.percentile here, and statistics are drawn four times a second.
    ordered = np.sort(values)
    p50, p95, p99 = (_quantile(ordered, share) for share in (0.50, 0.95, 0.99))
    rate = intervals / span_s if span_s > 0 else 0.0
    return StageTimes(p50, p95, p99, float(ordered[-1]), rate, count, sum_ms, buckets)


def _quantile(ordered: np.ndarray[Any, Any], share: float) -> float:
    """Return a quantile with linear interpolation, as numpy defines it."""
    place = (len(ordered) - 1) * share
    low = int(place)
    below, above = float(ordered[low]), float(ordered[min(low + 1, len(ordered) - 1)])
    return below + (above - below) * (place - low)


class LoopLagMonitor(Resource):
    """Measures how late the event loop runs what is due, fifty times a second.

    ``async with LoopLagMonitor() as lag:`` measures while the block runs. Each measurement is
    planned from the one before and not on a grid: the poll below the loop waits whole milliseconds,
    and that rounding would be most of what is measured.

    Args:
        timer: Where the lags go, in milliseconds; one of its own by default.
        interval_s: Time from one measurement to the next.
    """

    def __init__(self, timer: StageTimer | None = None, *, interval_s: float = 0.02) -> None:
        self.timer = StageTimer() if timer is None else timer
        self._interval_s = interval_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._plan(self._loop)
        return self

    async def aclose(self) -> None:
        """Stop measuring."""
        if self._next is not None:
            self._next.cancel()
        self._loop = None

    def times(self) -> StageTimes:
        """Return the lags of the last 10,000 measurements, 200 seconds."""
        return self.timer.times()

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._interval_s
        self._next = loop.call_at(due, self._measure, loop, due)

    def _measure(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.timer.add((loop.time() - due) * 1e3)
        if self._loop is loop:
            self._plan(loop)
