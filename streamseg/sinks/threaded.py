"""A sink whose work is done by a plain, blocking writer in a thread of its own.

The loop hands frames over through a queue of four; nothing that encodes, writes or waits for a disk
runs on the loop. Closing abandons the queue, tells the writer to stop and waits for its thread, but
not longer than a user would: an encoder that is deep in one slow picture finishes that alone, into a
file that has lost its name already.

A finished writer waits in its thread for what comes next: ``commit`` or closing.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.to_thread

from streamseg.abc import Sink, SinkStatistics
from streamseg.errors import SinkWriteError, StreamsegError
from streamseg.handoff import ToThread
from streamseg.sinks.target import printable, reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["ThreadedSink", "Writer"]

CAPACITY = 4  # pictures in the queue: enough to ride out one slow picture, 12 MB at 1080p
CLOSE_TIMEOUT_S = 1.5


class Writer(Protocol):
    """What runs in the thread. All but ``stop`` and ``discard`` is called there, one at a time."""

    @property
    def written(self) -> int:
        """Frames that are in the result so far."""

    @property
    def notices(self) -> list[str]:
        """What the user should know, a line each; only appended to."""

    def open(self, info: StreamInfo) -> None:
        """Check everything that can be checked without a picture. Raises SinkOpenError."""

    def write(self, frame: Frame, segmentation: Segmentation | None) -> None:
        """Write one picture."""

    def write_packets(self, packets: Sequence[Any]) -> None:
        """Write side packets."""

    def finish(self) -> None:
        """Flush and verify; the target stays as it is."""

    def commit(self) -> None:
        """Put in place what was finished, all of it or nothing."""

    def abort(self) -> None:
        """Remove everything that is not in its place. Must not fail; may follow ``commit``."""

    def stop(self) -> None:
        """Make a running method of another thread end soon, with any error; not ``commit``."""

    def discard(self) -> None:
        """Remove the temporary files' names though a method of another thread is still running."""


@dataclass(frozen=True, slots=True)
class _Packets:
    packets: Sequence[Any]


@dataclass(slots=True)
class _State:
    """What the thread and the loop tell each other; apart from the sink, so that the thread does not hold it."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: BaseException | None = None
    decided: threading.Event = field(default_factory=threading.Event)
    """Told by the loop once the writer has finished: whether to commit is in ``keep``."""
    keep: bool = False


_Item = tuple["Frame", "Segmentation | None"] | _Packets


class ThreadedSink(Sink):
    """Runs a writer in a thread.

    Args:
        name: What is written, for messages and the thread's name.

    Attributes:
        capacity: How many pictures may wait for the writer.
    """

    capacity = CAPACITY

    def __init__(self, name: str) -> None:
        self._name = self.name = printable(name)
        self._writer: Writer | None = None
        self._queue: ToThread[_Item] | None = None
        self._thread: threading.Thread | None = None
        self._state = _State()
        self._accepted = 0
        self._finishing = False
        self._finished = False
        self._closed = False

    def _make_writer(self) -> Writer:
        raise NotImplementedError

    async def open(self, info: StreamInfo) -> None:
        """Check the target and start the thread.

        Raises:
            SinkOpenError: If the target cannot be written as asked.
            anyio.ClosedResourceError: If it was closed.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        if self._thread is not None:
            raise RuntimeError(f"{type(self).__name__}.open() was called twice")
        writer = self._writer = self._make_writer()
        queue = self._queue = ToThread[_Item](self.capacity)
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=_run,
            args=(self._name, self._state, writer, queue, info, loop),
            name=f"sink {self._name}",
            daemon=True,  # an interpreter that ends without aclose() must not hang here
        )
        self._thread.start()
        try:
            await self._state.opened.wait()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        if self._state.error is not None:
            error = self._state.error
            await self.aclose()
            raise error.with_traceback(None)

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Hand one picture over; waits while ``capacity`` are waiting.

        Raises:
            anyio.ClosedResourceError: If the sink is closed, finished, or was never opened.
            SinkError: If writing failed, now or earlier.
        """
        if await self._usable().put((frame, segmentation)):
            self._accepted += 1
        else:
            await self._raise_failure()

    async def send_packets(self, packets: Sequence[Any]) -> None:
        """Hand side packets over; they are not changed.

        Raises:
            anyio.ClosedResourceError: If the sink is closed, finished, or was never opened.
            SinkError: If writing failed, now or earlier.
        """
        queue = self._usable()
        if packets and not await queue.put(_Packets(tuple(packets))):
            await self._raise_failure()

    async def finish(self) -> None:
        """Write everything out and verify it; the target is still as it was.

        Raises:
            anyio.ClosedResourceError: If the sink is closed, finished, or was never opened.
            SinkError: If the result is not whole.
        """
        queue = self._usable()
        self._finishing = True
        queue.end()
        await self._state.finished.wait()
        if self._state.error is not None:
            raise self._state.error.with_traceback(None)
        if self._closed:
            raise anyio.ClosedResourceError
        self._finished = True

    async def commit(self) -> None:
        """Put what was finished where it belongs; a second time does nothing.

        Cancelling does not stop it: the thread goes on, and the target is whole either way.

        Raises:
            anyio.ClosedResourceError: If the sink was not finished, or closed before.
            SinkError: If the target cannot be replaced; it is then as it was before.
        """
        if not self._finished or (self._closed and not self._state.keep):
            raise anyio.ClosedResourceError
        self._state.keep = True
        self._state.decided.set()
        await self._state.done.wait()
        await self._join()
        if self._state.error is not None:
            raise self._state.error.with_traceback(None)

    async def aclose(self) -> None:
        """End it; what was not committed leaves no trace. May be called twice."""
        first, self._closed = not self._closed, True
        if self._thread is None:
            return
        abandoned = not self._state.keep
        if first and abandoned and self._queue is not None and self._writer is not None:
            self._queue.abandon()
            self._state.decided.set()
            if not self._state.done.is_set():
                self._writer.stop()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(CLOSE_TIMEOUT_S):
                await self._state.done.wait()
                await self._join()
            if first and abandoned and self._writer is not None and not self._state.done.is_set():
                await anyio.to_thread.run_sync(self._writer.discard)

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know, a line each."""
        return () if self._writer is None else tuple(self._writer.notices)

    def statistics(self) -> SinkStatistics:
        """Return the counters of this moment; ``dropped`` holds what closing abandoned."""
        written = 0 if self._writer is None else self._writer.written
        abandoned = self._accepted - written if self._state.done.is_set() else 0
        return SinkStatistics(
            accepted=self._accepted,
            written=written,
            dropped={"abandoned": abandoned} if abandoned > 0 else {},
        )

    def _usable(self) -> ToThread[_Item]:
        if self._queue is None or self._closed or self._finishing:
            raise anyio.ClosedResourceError
        return self._queue

    async def _raise_failure(self) -> None:
        await self._state.done.wait()
        if self._state.error is not None and not self._closed:
            raise self._state.error.with_traceback(None)
        raise anyio.ClosedResourceError

    async def _join(self) -> None:
        # The thread has said its last word; what is left of it takes microseconds.
        if self._thread is not None:
            self._thread.join(timeout=0.2)

    def __del__(self) -> None:
        thread, queue = self.__dict__.get("_thread"), self.__dict__.get("_queue")
        if thread is not None and queue is not None and not self._state.done.is_set():
            queue.abandon()
            self._state.decided.set()
            if not self._closed:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"


def _run(
    name: str,
    state: _State,
    writer: Writer,
    queue: ToThread[_Item],
    info: StreamInfo,
    loop: asyncio.AbstractEventLoop,
) -> None:
    try:
        writer.open(info)
        _call(loop, state.opened.set)
        while (item := queue.get()) is not None:
            if isinstance(item, _Packets):
                writer.write_packets(item.packets)
            else:
                writer.write(*item)
            del item  # the frame's memory goes back to the decoder's pool
        if not queue.abandoned:
            writer.finish()
            _call(loop, state.finished.set)
            state.decided.wait()
            if state.keep:
                writer.commit()
    except StreamsegError as exc:
        state.error = exc
    except BaseException as exc:
        error = SinkWriteError(f"cannot write {name}: {type(exc).__name__}: {reason(exc)}")
        error.__cause__ = exc
        state.error = error
    finally:
        writer.abort()
        queue.abandon()
        for event in (state.opened, state.finished, state.done):
            _call(loop, event.set)


def _call(loop: asyncio.AbstractEventLoop, function: Any) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:  # the loop has ended: nobody waits any more
        return
