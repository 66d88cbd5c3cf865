"""Bounded hand-over between the event loop and one thread, in either direction.

A decoder and an encoder each live in a thread of their own. Both sides must be able to wait for the
other without blocking the loop, and closing from either side must wake the other at once; neither
``queue.Queue`` (blocks the loop) nor an anyio memory stream (loop only) does both.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Generic, TypeVar

import anyio

__all__ = ["FromThread", "ToThread"]

T = TypeVar("T")


class FromThread(Generic[T]):
    """Items made by a thread, received by the loop.

    Args:
        capacity: How many items may wait; ``put`` blocks its thread while that many do.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()

    def put(self, item: T) -> bool:
        """Hand an item over, blocking the calling thread; False once the loop's side closed."""
        with self._changed:
            while len(self._items) >= self._capacity and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._items.append(item)
            first = len(self._items) == 1
        if first:
            self._wake()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """Say from the thread that nothing more comes; ``get`` then ends, or raises the error."""
        with self._changed:
            self._error = error
            self._closed = True
        self._wake()

    def close(self) -> None:
        """End from the loop's side: waiting items are let go and ``put`` returns False."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
        self._ready.set()

    async def get(self) -> T:
        """Return the next item, waiting for it.

        Raises:
            anyio.EndOfStream: When the thread ended without an error.
        """
        while True:
            with self._changed:
                if self._items:
                    item = self._items.popleft()
                    self._changed.notify_all()
                    return item
                if self._closed:
                    if self._error is not None:
                        raise self._error
                    raise anyio.EndOfStream
                self._ready.clear()
            await self._ready.wait()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the loop has ended: nobody waits any more
            self.close()


class ToThread(Generic[T]):
    """Items sent by the loop, taken by a thread.

    Args:
        capacity: How many items may wait; ``put`` waits while that many do.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._abandoned = False
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    async def put(self, item: T) -> bool:
        """Hand an item over, waiting for room; False once the thread's side has stopped taking."""
        while True:
            with self._changed:
                if self._abandoned:
                    return False
                if len(self._items) < self._capacity:
                    self._items.append(item)
                    self._changed.notify_all()
                    return True
                self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """Say from the loop that nothing more comes: the thread takes what waits, then ends."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Stop both sides at once, from either: what waits is let go."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()
        self._wake()

    @property
    def abandoned(self) -> bool:
        """Whether ``abandon`` was called."""
        return self._abandoned

    def get(self) -> T | None:
        """Return the next item, blocking the calling thread; None at the end."""
        with self._changed:
            while not self._items:
                if self._ended or self._abandoned:
                    return None
                self._changed.wait()
            item = self._items.popleft()
        self._wake()
        return item

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._room.set)
        except RuntimeError:  # the loop has ended: nobody waits any more
            with self._changed:
                self._abandoned = True
