"""What somebody can see of a download, and do about it, while it runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DownloadControl"]

_STEP = 0.001


class DownloadControl:
    """Pauses, resumes and cancels one download; for use on its event loop only.

    Attributes:
        progress: How much is done, 0 to 1. It never goes back, and 1 means verified and in place.
        received_bytes: Bytes that are here.
        total_bytes: Bytes that it will be, None while nobody said so.
    """

    def __init__(self) -> None:
        self.progress = 0.0
        self.received_bytes = 0
        self.total_bytes: int | None = None
        self._resumed: anyio.Event | None = None
        self._cancelled = False
        self._scope: anyio.CancelScope | None = None
        self._listener: Callable[[bool], None] | None = None
        self._on_progress: Callable[[float], None] | None = None

    @property
    def is_paused(self) -> bool:
        """Whether it waits for ``resume``."""
        return self._resumed is not None

    def pause(self) -> None:
        """Stop receiving. What is here stays; a server that hangs up meanwhile is asked again."""
        if self._resumed is None:
            self._resumed = anyio.Event()
            if self._listener is not None:
                self._listener(True)

    def resume(self) -> None:
        """Go on after ``pause``."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None
            if self._listener is not None:
                self._listener(False)

    def cancel(self) -> None:
        """End it; ``fetch`` raises DownloadInterruptedError, and can go on in another call."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    @contextmanager
    def running(self, on_progress: Callable[[float], None] | None) -> Iterator[None]:
        """Around the work that ``cancel`` ends; it ends it without an exception."""
        self._on_progress = on_progress
        self.progress, self.received_bytes, self.total_bytes = 0.0, 0, None
        with anyio.CancelScope() as self._scope:
            if self._cancelled:
                self._scope.cancel()
            try:
                yield
            finally:
                self._scope = None
                self._cancelled = False

    @contextmanager
    def listening(self, listener: Callable[[bool], None]) -> Iterator[None]:
        """Around work that cannot wait by itself: the listener is told to stop and to go on."""
        self._listener = listener
        try:
            if self.is_paused:
                listener(True)
            yield
        finally:
            self._listener = None

    async def wait_resumed(self) -> None:
        """Wait as long as it is paused."""
        while self._resumed is not None:
            await self._resumed.wait()

    def report(self, received: int, total: int | None) -> None:
        """Take a new state; the last thousandth is kept for the checks."""
        self.received_bytes, self.total_bytes = received, total
        if total:
            self._advance(min(received / total, 1.0 - _STEP))

    def report_done(self) -> None:
        """Everything is verified and in place."""
        self._advance(1.0)

    def _advance(self, progress: float) -> None:
        # Some files arrive in a million pieces: a bar does not need each.
        if progress >= self.progress + _STEP or progress == 1.0 > self.progress:
            self.progress = progress
            if self._on_progress is not None:
                self._on_progress(progress)
