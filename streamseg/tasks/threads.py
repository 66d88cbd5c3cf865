"""Work of seconds in a thread, from which a caller that is cancelled gets away at once."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from typing import IO, TYPE_CHECKING, TypeAlias, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

__all__ = ["Check", "Watched", "in_thread"]

T = TypeVar("T")

Check: TypeAlias = "Callable[[], None]"
"""Raises where nobody wants the result any more."""

_GRACE_S = 0.7
_PIECE_BYTES = 1 << 20  # compressed in 0.1 s
_SYNC_BYTES = 32 << 20
_MOST_THREADS = 16  # more than cores have use for; the rest is for those that were left behind
# macOS has no fdatasync.
_sync = getattr(os, "fdatasync", os.fsync)


class _Unwanted(Exception):
    """The caller was cancelled."""


class _Places:
    """How many threads there may be, of all event loops together.

    A thread gives its place back itself, when its work has ended: its caller may have left long ago.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        # Bounded by the calls that wait: one each.
        self._waiting: deque[Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a place; whoever is cancelled has none."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            place: Future[None] = Future()
            self._waiting.append(place)
        try:
            await asyncio.wrap_future(place)
        except BaseException:
            with self._lock, suppress(ValueError):
                self._waiting.remove(place)
            if not place.cancel():  # it was handed over at the same time
                self.release()
            raise

    def release(self) -> None:
        """Hand a place to who waits longest; from any thread."""
        with self._lock:
            while self._waiting:
                place = self._waiting.popleft()
                if place.set_running_or_notify_cancel():
                    break
            else:
                self._free += 1
                return
        place.set_result(None)


_places = _Places(_MOST_THREADS)


async def in_thread(work: Callable[[Check], T]) -> T:
    """Return what work returns; it is done in a thread.

    Whoever is cancelled waits for at most a second. Work that holds a file must call its check
    every tenth of a second or so, and removes the file when that raises. What is in one long call
    of a library by then is left behind: the thread does not keep the interpreter from ending.
    There are at most 16 threads, with those that were left behind; who comes then waits for one.

    Args:
        work: Takes the check.

    Raises:
        BaseException: As ``work``.
    """
    loop, ended, unwanted = asyncio.get_running_loop(), anyio.Event(), threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def check() -> None:
        if unwanted.is_set():
            raise _Unwanted

    def run() -> None:
        try:
            results.append(work(check))
        except BaseException as exc:
            errors.append(exc)
        finally:
            _places.release()
        with suppress(RuntimeError):  # it was left behind, and the loop has ended
            loop.call_soon_threadsafe(ended.set)

    await _places.take()
    # Not one of anyio's: the interpreter waits for those when it ends.
    thread = threading.Thread(target=run, name="streamseg-task", daemon=True)
    try:
        thread.start()
    except BaseException:
        _places.release()
        raise
    try:
        await ended.wait()
    except BaseException:
        unwanted.set()
        with anyio.move_on_after(_GRACE_S, shield=True):
            await ended.wait()
        raise
    if errors:
        raise errors[0]
    return results[0]


class Watched:
    """A file to write to as long as somebody wants it.

    It has no ``fileno``: encoders that found one would write past it.

    Args:
        file: Where the bytes go.
        check: Called before each piece of them.
        fd: The file's descriptor, for what is written to be on the disk before the end: syncing
            all of a large file takes seconds.
    """

    def __init__(self, file: IO[bytes], check: Check, *, fd: int | None = None) -> None:
        self._file = file
        self._check = check
        self._fd = fd
        self._unsynced = 0

    def write(self, data: Buffer) -> int:
        """Write bytes, or an array's, in pieces."""
        view = memoryview(data).cast("B")
        self._check()
        for start in range(0, len(view), _PIECE_BYTES):
            self._check()
            self._unsynced += self._file.write(view[start : start + _PIECE_BYTES])
            if self._fd is not None and self._unsynced >= _SYNC_BYTES:
                self._file.flush()
                _sync(self._fd)
                self._unsynced = 0
        return len(view)

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return self._file.seek(offset, whence)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._file.flush()
