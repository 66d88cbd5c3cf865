"""Statistics as JSON lines, one a second."""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import anyio

from streamseg.errors import ConfigError
from streamseg.handoff import FromThread, ToThread
from streamseg.monitoring.background import BackgroundTask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamseg.telemetry import PipelineStatistics

__all__ = ["StatisticsWriter"]

_log = logging.getLogger(__name__)

_WAITING = 8  # lines that wait for a slow target; further ones are left out and counted
_CLOSING_S = 1.0  # how long closing waits for a target that takes nothing


class StatisticsWriter(BackgroundTask):
    """Appends a JSON object a line to a file: at once, every interval, and when it is closed.

    Each line is ``PipelineStatistics.to_json()`` with ``time`` in front, UTC in ISO 8601. Lines are
    written by a thread and each on its own, so that a reader sees it at once. A target that fails
    (a full disk, a reader that has gone) is told in one log line and left alone; one that is slow
    misses lines. The pipeline notices neither.

    Args:
        target: The file; ``-`` is standard output.
        get_statistics: Called on the event loop for each line.
        interval_s: Time from line to line in seconds.
    """

    def __init__(
        self,
        target: Path | str,
        get_statistics: Callable[[], PipelineStatistics],
        *,
        interval_s: float = 1.0,
    ) -> None:
        if interval_s <= 0:
            raise ConfigError(f"the interval of the statistics is {interval_s} s, expected above 0")
        self._target = str(target)
        self._get_statistics = get_statistics
        self._interval_s = interval_s
        self._lines: ToThread[bytes] | None = None
        self._news: FromThread[None] | None = None
        self.skipped = 0
        """Lines left out because the target was too slow."""

    async def __aenter__(self) -> Self:
        """Open the target.

        Raises:
            ConfigError: If it cannot be written.
        """
        self._lines, self._news = ToThread(_WAITING), FromThread(1)
        # A daemon, because a write to a pipe that nobody reads cannot be interrupted: such a thread
        # is left behind, with its file.
        threading.Thread(
            target=_write,
            args=(self._target, self._lines, self._news),
            name="statistics",
            daemon=True,
        ).start()
        try:
            await self._news.get()
        except OSError as exc:
            raise ConfigError(
                f"cannot write statistics to {self._target!r}: {exc.strerror}; "
                "name a file in a folder that exists, or - for standard output"
            ) from exc
        except BaseException:
            self._lines.abandon()
            raise
        self._start()
        return self

    async def aclose(self) -> None:
        """Write the last line, and wait up to a second for what is not written yet."""
        running = self._task is not None and not self._task.done()
        await self._stop()
        lines, news, self._lines = self._lines, self._news, None
        if lines is None or news is None:
            return
        if running:
            try:
                await self._put(lines)
            except Exception as exc:
                _log.warning("the last statistics could not be read", extra={"error": str(exc)})
        lines.end()
        with anyio.move_on_after(_CLOSING_S, shield=True) as closing:
            try:
                await news.get()
            except anyio.EndOfStream:
                pass
        if closing.cancelled_caught:
            self.skipped += len(lines) + 1  # those that wait, and the one in the thread
            lines.abandon()
        if self.skipped:
            _log.warning(
                "statistics have gaps: the target was too slow",
                extra={"target": self._target, "skipped": self.skipped},
            )

    async def _run(self) -> None:
        lines = self._lines
        if lines is None:
            return
        due = anyio.current_time()
        while not lines.abandoned:
            await self._put(lines)
            due = max(due + self._interval_s, anyio.current_time())
            await anyio.sleep_until(due)

    async def _put(self, lines: ToThread[bytes]) -> None:
        if len(lines) >= _WAITING:
            self.skipped += 1
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, **self._get_statistics().to_json()}
        await lines.put(json.dumps(line, separators=(",", ":")).encode() + b"\n")


def _write(target: str, lines: ToThread[bytes], news: FromThread[None]) -> None:
    """Open the target, say so, write what comes, say that it is over."""
    try:
        # Not through sys.stdout: a thread left behind in its lock would crash the interpreter when
        # it ends.
        handle = (
            os.dup(1)
            if target == "-"
            else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        )
    except OSError as exc:
        news.end(exc)
        return
    try:
        news.put(None)
        while (line := lines.get()) is not None:
            while line:
                line = line[os.write(handle, line) :]
    except OSError as exc:
        lines.abandon()
        _log.warning(
            "statistics are no longer written",
            extra={"target": target, "error": exc.strerror},
        )
    finally:
        os.close(handle)
        news.end()
