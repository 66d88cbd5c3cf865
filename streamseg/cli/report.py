"""What a user reads: progress, summary, errors."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from streamseg.engine import Pipeline
    from streamseg.telemetry import PipelineStatistics

__all__ = [
    "FileProgress",
    "ProgressBar",
    "print_error",
    "print_json",
    "print_notices",
    "print_summary",
]

_REFRESH_S = 0.1


def _stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def print_error(text: str) -> None:
    """Print one line on standard error."""
    _stderr().print(f"[bold red]streamseg:[/] {escape(text)}")


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(value))  # noqa: T201


def print_notices(notices: Sequence[str]) -> None:
    """Print what the user should know, a line each, on standard error."""
    for notice in notices:
        _stderr().print(f"[yellow]note:[/] {escape(notice)}")


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.0f} fps")


class ProgressBar:
    """A progress bar on standard error while a command runs; silent where that is no terminal.

    Args:
        columns: What it shows.
        quiet: Whether nothing is shown.
    """

    def __init__(self, *columns: ProgressColumn, quiet: bool) -> None:
        console = _stderr()
        self._bar = Progress(
            *columns, console=console, disable=quiet or not console.is_terminal, transient=True
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()


class FileProgress(ProgressBar):
    """How far a file job is.

    Args:
        name: The file's.
        quiet: Whether nothing is shown.
    """

    def __init__(self, name: str, *, quiet: bool) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("frames"),
            _Speed(),
            TimeRemainingColumn(elapsed_when_finished=True),
            quiet=quiet,
        )
        self._task = self._bar.add_task(escape(name), total=None)
        self._shown_s = 0.0

    def update(self, pipeline: Pipeline) -> None:
        """Show how far the pipeline is; cheap enough to be called for every frame."""
        now = time.monotonic()
        if now - self._shown_s < _REFRESH_S:
            return
        self._shown_s = now
        self._bar.update(self._task, completed=pipeline.frames_out, total=pipeline.info.frame_count)


def print_summary(target: str, statistics: PipelineStatistics) -> None:
    """Print what a file job did, on standard output."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    dropped = ", ".join(f"{count} {cause}" for cause, count in statistics.dropped.items())
    console.print(
        f"[bold]{escape(target)}[/]: {statistics.frames_in} frames in, "
        f"{statistics.frames_out} out, {dropped or 'none'} dropped, "
        f"{statistics.elapsed_s:.1f} s, {statistics.fps:.1f} fps"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for column in ("p50 ms", "p95 ms", "max ms"):
        table.add_column(column, justify="right")
    for stage, times in statistics.stages.items():
        if times.max_ms > 0:
            table.add_row(
                stage, f"{times.p50_ms:.1f}", f"{times.p95_ms:.1f}", f"{times.max_ms:.1f}"
            )
    console.print(table)
    if statistics.worker_restarts:
        console.print(f"model processes restarted: {statistics.worker_restarts}")
    print_notices(statistics.notices)
