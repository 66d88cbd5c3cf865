"""What a user sees of a live pipeline: a status line while it runs, a summary when it has ended."""

from __future__ import annotations

import logging
import sys
from collections import deque
from typing import TYPE_CHECKING, Self

import anyio
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from streamseg.cli.report import print_notices
from streamseg.monitoring.background import BackgroundTask
from streamseg.monitoring.text import clock_text, drops_text, status_text
from streamseg.redact import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from streamseg.telemetry import PipelineStatistics, StageTimes

__all__ = ["LiveStatus", "print_live_summary"]

_log = logging.getLogger(__name__)

_REFRESH_S = 0.25
_LOGGED_S = 10.0  # from one line to the next where there is no terminal
_RATE_SAMPLES = 20  # 5 seconds: muxers write in bursts


class LiveStatus(BackgroundTask):
    """One line on standard error while ``async with LiveStatus(...)`` runs, four times a second.

    Log lines appear above it. Where standard error is no terminal there is an event in the log
    every ten seconds instead, which ``--verbose`` shows.

    Args:
        get_statistics: Called on the event loop for each line.
        quiet: Shows nothing on the terminal; to be set too when something else writes there.
        console: Where to show it; standard error by default.
    """

    def __init__(
        self,
        get_statistics: Callable[[], PipelineStatistics],
        *,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        self._get_statistics = get_statistics
        self._console = console or Console(
            stderr=True, highlight=False, soft_wrap=True, emoji=False
        )
        self._shown = not quiet and self._console.is_terminal and not self._console.is_dumb_terminal
        self._text = ""
        self._rates = _ByteRates()
        self._live: Live | None = None

    async def __aenter__(self) -> Self:
        if self._shown:
            # A thread of rich's draws what the loop leaves in _text: a terminal that takes nothing
            # (Ctrl-S) must not stop the pipeline.
            self._live = Live(
                get_renderable=lambda: Text(self._text, no_wrap=True, overflow="ellipsis"),
                console=self._console,
                refresh_per_second=1 / _REFRESH_S,
                # Output that goes to a file or a pipe must go on doing so.
                redirect_stdout=sys.stdout.isatty(),
                transient=True,
            )
            self._live.start()
        self._start()
        return self

    async def aclose(self) -> None:
        """Take the line away."""
        await self._stop()
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    async def _run(self) -> None:
        while True:
            if self._live is not None:
                self._show(self._get_statistics())
                await anyio.sleep(_REFRESH_S)
                continue
            await anyio.sleep(_LOGGED_S)
            if _log.isEnabledFor(logging.INFO):
                _log.info("live", extra=_fields(self._get_statistics()))

    def _show(self, statistics: PipelineStatistics) -> None:
        rates = self._rates.update(statistics.elapsed_s, statistics.sink_bytes)
        self._text = status_text(statistics, rates)


class _ByteRates:
    """Bits a second of each sink over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[str, int]]] = deque(maxlen=_RATE_SAMPLES)

    def update(self, now_s: float, written: Mapping[str, int]) -> dict[str, float]:
        self._samples.append((now_s, written))
        then_s, before = self._samples[0]
        span_s = now_s - then_s
        return {
            name: (count - before.get(name, 0)) * 8 / span_s if span_s > 0 else 0.0
            for name, count in written.items()
        }


def _fields(statistics: PipelineStatistics) -> dict[str, object]:
    total = statistics.recent.get("total") or statistics.stages.get("total")
    return {
        "elapsed_s": round(statistics.elapsed_s, 1),
        "fps": round(statistics.recent_fps, 1),
        "p50_ms": round(total.p50_ms, 1) if total else 0.0,
        "p95_ms": round(total.p95_ms, 1) if total else 0.0,
        "captured": statistics.frames_in,
        "delivered": statistics.frames_out,
        "dropped": sum(statistics.dropped.values()),
        "hidden": statistics.hidden,
        "reused": statistics.reused,
    }


def print_live_summary(statistics: PipelineStatistics, *, name: str = "live") -> None:
    """Print what a live pipeline did, on standard output.

    Args:
        statistics: Of the run that has ended.
        name: Of the source; credentials in it are hidden.
    """
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    console.print(
        f"[bold]{escape(redact(name))}[/]: {statistics.frames_in} frames captured, "
        f"{statistics.frames_out} delivered, {escape(drops_text(statistics.dropped))}, "
        f"{clock_text(statistics.elapsed_s)}, {statistics.fps:.1f} fps"
    )
    told = {
        "in flight when it ended": statistics.in_flight,
        "hidden for want of a mask": statistics.hidden,
        "shown with an earlier mask": statistics.reused,
        "source reconnected": statistics.reconnects,
        "model processes restarted": statistics.worker_restarts,
    }
    for what, count in told.items():
        if count:
            console.print(f"{what}: {count}")
    _print_stages(console, statistics)
    _print_sinks(console, statistics)
    print_notices(statistics.notices)


def _print_stages(console: Console, statistics: PipelineStatistics) -> None:
    rows = [(stage, times) for stage, times in statistics.stages.items() if times.count]
    if statistics.loop_lag.count:
        rows.append(("loop lag", statistics.loop_lag))
    if rows:
        table = _table("stage", ("p50 ms", "p95 ms", "p99 ms", "max ms"))
        for stage, times in rows:
            table.add_row(stage, *_cells(times))
        console.print(table)


def _print_sinks(console: Console, statistics: PipelineStatistics) -> None:
    if not statistics.sinks:
        return
    table = _table("sink", ("accepted", "written", "MB"))
    table.add_column("dropped")
    for name, sink in statistics.sinks.items():
        size = statistics.sink_bytes.get(name)
        dropped = drops_text(sink.dropped).removeprefix("dropped ")
        reconnects = f", {sink.reconnects} reconnects" if sink.reconnects else ""
        table.add_row(
            escape(name),
            str(sink.accepted),
            str(sink.written),
            "" if size is None else f"{size / 1e6:.1f}",
            escape(dropped + reconnects),
        )
    console.print(table)


def _table(first: str, columns: Iterable[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _cells(times: StageTimes) -> list[str]:
    return [f"{ms:.1f}" for ms in (times.p50_ms, times.p95_ms, times.p99_ms, times.max_ms)]
