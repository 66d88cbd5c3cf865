"""Newest: a hand-over from a thread to the event loop that never waits and never grows.

`streamseg.handoff.FromThread` makes the thread wait while the loop is behind, which is right for
a file. A camera does not wait: here the oldest item gives way, and the thread is told how many did.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Generic, TypeVar

import anyio

__all__ = ["Newest"]

T = TypeVar("T")


class Newest(Generic[T]):
    """The newest items of a thread, received by the loop that was running at construction.

    Args:
        capacity: How many items may wait; one more and the oldest is let go.
    """

    def __init__(self, capacity: int = 1) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, expected at least 1")
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._lock = threading.Lock()  # held for a few instructions only, also on the loop
        self._closed = False
        self._error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether it ended, from either side."""
        return self._closed

    def put(self, item: T) -> int:
        """Hand an item over; return how many items were let go for it, itself included."""
        with self._lock:
            if self._closed:
                return 1
            self._items.append(item)
            superseded = len(self._items) - self._capacity
            if superseded > 0:
                self._items.popleft()
        self._wake()
        return max(0, superseded)

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes: ``get`` returns what waits, then ends or raises the error."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._error = error
        self._wake()

    def close(self) -> int:
        """End it from the loop's side; return how many items were waiting and are let go."""
        with self._lock:
            self._closed = True
            waiting = len(self._items)
            self._items.clear()
        self._ready.set()
        return waiting

    async def get(self) -> T:
        """Return the oldest item that waits, or wait for one; cancelling loses none.

        Raises:
            anyio.EndOfStream: When the thread ended without an error, every time.
        """
        while True:
            with self._lock:
                if self._items:
                    return self._items.popleft()
                if self._closed:
                    if self._error is not None:
                        raise self._error.with_traceback(None)
                    raise anyio.EndOfStream
                self._ready.clear()
            await self._ready.wait()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the loop has ended: nobody waits any more
            with self._lock:
                self._closed = True
                self._items.clear()
