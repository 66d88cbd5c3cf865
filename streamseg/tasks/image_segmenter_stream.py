"""Pictures of a live stream on their way to a model that may be slower than they come."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from streamseg.errors import StreamsegError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["LiveStatistics", "NewestOnly"]

_log = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class LiveStatistics:
    """What became of the pictures of a live stream.

    Attributes:
        accepted: Those that were given, one waiting and one under way included.
        delivered: Those that the callback has been called for.
        dropped: Those that a newer one took the place of.
        failed: Those that could not be segmented.
    """

    accepted: int = 0
    delivered: int = 0
    dropped: int = 0
    failed: int = 0


class NewestOnly(Generic[ItemT]):
    """One item is worked on, one waits; a newer one takes the place of that which waits.

    Args:
        work: What is done with an item. When it raises, the item has failed and the next one comes.
    """

    def __init__(self, work: Callable[[ItemT], Awaitable[None]]) -> None:
        self._work = work
        self._waiting: ItemT | None = None  # bounded: one
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._accepted = self._delivered = self._dropped = self._failed = 0

    def start(self) -> None:
        """Begin; ``aclose`` ends it."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="streamseg-live-stream")

    def put(self, item: ItemT) -> None:
        """Hand over an item; never waits. To be called on the event loop."""
        self._accepted += 1
        if self._waiting is not None:
            self._dropped += 1
        self._waiting = item
        self._arrived.set()

    def statistics(self) -> LiveStatistics:
        """Return the counters of this moment."""
        return LiveStatistics(self._accepted, self._delivered, self._dropped, self._failed)

    async def aclose(self) -> None:
        """Stop at once; what waits is given up."""
        task, self._task = self._task, None
        # A callback may close the segmenter that calls it.
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        # Ends by ``aclose``, also where that was called from within.
        while self._task is asyncio.current_task():
            await self._arrived.wait()
            self._arrived.clear()
            item, self._waiting = self._waiting, None
            if item is None:
                continue
            try:
                await self._work(item)
            except StreamsegError as exc:
                self._failed += 1
                _log.warning("a picture of the stream was not segmented: %s", exc)
            except Exception:
                # Of the caller's callback: it must not end the stream.
                self._failed += 1
                _log.exception("the callback of a live stream failed")
            else:
                self._delivered += 1
