"""DownloadBar: how far the download of a model is, where a command needs one first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from streamseg.redact import redacted_url

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["DownloadBar"]


class DownloadBar:
    """A bar on standard error that is there only while something is fetched.

    Nothing is shown of a model that is on this machine already, nor where standard error is no
    terminal.

    Args:
        name: The model's.
        quiet: Whether nothing is shown at all.
    """

    def __init__(self, name: str, *, quiet: bool) -> None:
        console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self._bar = Progress(
            TextColumn("fetching {task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(escape(redacted_url(name)), total=1.0)
        self._started = False
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = True
        self._stop()

    def show(self, share: float) -> None:
        """Show how much is there; nothing once the block is left.

        Args:
            share: 0 to 1; the bar goes away at 1.
        """
        if share >= 1.0 or self._over:
            self._stop()
            return
        if not self._started:
            self._started = True
            self._bar.start()
        self._bar.update(self._task, completed=share)

    def _stop(self) -> None:
        if self._started:
            self._started = False
            self._bar.stop()
