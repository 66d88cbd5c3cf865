"""Capture: drives grabbers for a live source, one after the other.

Two threads. One *grabs*: it makes a grabber, opens it, reads picture after picture and closes it;
each connection has a thread of its own. The other *watches*: it notices a connection that ended or
stalled, waits as long as the plan says, and starts the next one. A call that hangs in a driver
therefore stops nothing: its thread is left behind, and closes its own grabber when it returns.

Nothing here refers to the source, so that one that was forgotten can be collected.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from streamseg.errors import SourceOpenError, SourceReadError, StreamsegError
from streamseg.redact import redact
from streamseg.sources.connection import Connection
from streamseg.sources.intake import Intake
from streamseg.sources.reconnect import Backoff

if TYPE_CHECKING:
    from streamseg.frames import Frame, StreamInfo
    from streamseg.sources.live import Grabber
    from streamseg.sources.newest import Newest
    from streamseg.sources.reconnect import Reconnect

__all__ = ["Capture"]

_logger = logging.getLogger(__name__)

# Until the first picture of a connection: opening, and the wait for a key frame.
_FIRST_PICTURE_S = 30.0
# How long a thread that was told to stop may take before it is left behind.
_GRACE_S = 1.0
# Threads that hang in a driver's call; while so many do, no further one is started.
_MAX_LEFT_BEHIND = 3


class Capture:
    """One live source's threads and what they share with it.

    Args:
        factory: Makes a grabber.
        name: For messages.
        reconnect: What to do about a broken connection; None to fail.
        stall_s: Seconds without a picture that count as broken; None waits for ever.
        frames: Where the frames go.
        loop: The event loop that waits for ``opened`` and ``done``.

    Attributes:
        opened: Set when the first picture is there (``info``) or will not come (``error``).
        done: Set when nothing of this is left but threads that hang.
    """

    def __init__(
        self,
        factory: Callable[[], Grabber],
        *,
        name: str,
        reconnect: Reconnect | None,
        stall_s: float | None,
        frames: Newest[Frame],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._factory = factory
        self._name = name
        self._plan = reconnect
        self._stall_s = stall_s
        self.frames = frames
        self._loop = loop
        self.opened = asyncio.Event()
        self.done = asyncio.Event()
        self.info: StreamInfo | None = None
        self.error: StreamsegError | None = None
        self._stopping = False
        # Told when a connection has its first picture, when it ended, and when to stop.
        self._changed = threading.Condition()
        self._intake = Intake(name, frames)
        self._connection: Connection | None = None
        self._left_behind: list[Connection] = []

    def start(self) -> None:
        """Start the watching thread, which starts the rest."""
        threading.Thread(target=self._watch, name="streamseg-live", daemon=True).start()

    def stop(self) -> None:
        """Ask everything to end; returns at once."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of the side streams and their packets; only after ``done``."""
        self._intake.close()

    def take_packets(self) -> list[Any]:
        """Return the side packets that are ready."""
        return self._intake.packets.take()

    def dropped(self) -> dict[str, int]:
        """Return how many frames were dropped, by cause."""
        return {cause: count for cause, count in self._intake.dropped.copy().items() if count}

    @property
    def notices(self) -> list[str]:
        """What the user should know, a line each; of the reconnects, the latest."""
        return self._intake.notices

    @property
    def reconnects(self) -> int:
        """How often a broken connection was made again."""
        return self._intake.reconnects

    # ---- the watching thread ----

    def _watch(self) -> None:
        try:
            self._run()
        except Exception as error:  # a bug: it must not leave somebody waiting for ever
            self._fail(error)
        finally:
            if self._connection is not None and self._connection.alive:
                self._end(self._connection)
            self.frames.end(self.error)
            self._tell_loop(self.opened)
            self._tell_loop(self.done)

    def _run(self) -> None:
        connection = self._connect()
        self._attend(connection, until_picture=True)
        if connection.pictures:
            self.info = self._intake.info
            self._tell_loop(self.opened)
            _logger.info("%s: opened", self._name)
        elif not self._stopping:
            self.error = connection.error or SourceOpenError(f"{self._name}: there was no picture")
            if isinstance(self.error, SourceReadError):
                cause, self.error = self.error, SourceOpenError(str(self.error))
                self.error.__cause__ = cause
            return
        while not self._stopping:
            self._attend(connection, until_picture=False)
            if self._stopping or connection.ended:
                return
            error = connection.error
            assert error is not None
            _logger.warning("broke: %s", error)
            if self._plan is None:
                self.error = error
                return
            again = self._connect_again(error)
            if again is None:
                return
            connection = again

    def _connect_again(self, error: StreamsegError) -> Connection | None:
        """Try until there is a picture; None when it is over, with ``self.error`` saying why."""
        assert self._plan is not None
        backoff = Backoff(self._plan, time.monotonic())
        while True:
            delay_s = backoff.next_delay_s(time.monotonic())
            if delay_s is None:
                self.error = SourceReadError(
                    f"{self._name}: the connection broke and could not be made again for "
                    f"{self._plan.give_up_after_s:g} s; the last failure: "
                    + str(error).removeprefix(f"{self._name}: ")
                )
                self.error.__cause__ = error
                return None
            with self._changed:
                if self._changed.wait_for(lambda: self._stopping, delay_s):
                    return None
            self._left_behind = [left for left in self._left_behind if left.alive]
            if len(self._left_behind) >= _MAX_LEFT_BEHIND:
                continue
            connection = self._connect()
            self._attend(connection, until_picture=True)
            if self._stopping:
                return None
            if connection.pictures or connection.ended:
                break
            error = connection.error or error
        if connection.pictures:
            _logger.info("%s: reconnected after %.1f s", self._name, self._intake.gap_s)
        return connection

    def _connect(self) -> Connection:
        connection = Connection(self._name, self._factory, self._intake, self._changed)
        self._connection = connection
        connection.start()
        return connection

    def _attend(self, connection: Connection, *, until_picture: bool) -> None:
        """Wait for a connection's first picture, or for its end, which a stall leads to.

        At its end it has an error, unless it ended well.
        """
        waited_s = 0.0
        with self._changed:
            while connection.alive and not self._stopping:
                if until_picture and connection.pictures:
                    return
                left_s = None
                if self._stall_s is not None:
                    limit_s = self._stall_s
                    if until_picture:
                        limit_s = max(limit_s, _FIRST_PICTURE_S)
                    waited_s = time.monotonic() - connection.progress_s
                    left_s = limit_s - waited_s
                    if left_s <= 0:
                        break
                self._changed.wait(left_s)
        if self._stopping or not connection.alive:
            return
        self._end(connection)
        what = SourceReadError if connection.pictures else SourceOpenError
        connection.error = what(
            f"{self._name}: no picture came for {waited_s:.1f} s; is the sender still sending?"
        )

    def _end(self, connection: Connection) -> None:
        """Make a connection end, or leave it behind if it hangs; nothing of it happens any more."""
        self._connection = None
        connection.abandon()
        with self._changed:
            self._changed.wait_for(lambda: not connection.alive, _GRACE_S)
        if connection.alive:
            self._left_behind.append(connection)

    def _fail(self, error: Exception) -> None:
        self.error = SourceReadError(f"{self._name}: reading failed: {redact(str(error))}")
        self.error.__cause__ = error

    def _tell_loop(self, event: asyncio.Event) -> None:
        try:
            self._loop.call_soon_threadsafe(event.set)
        except RuntimeError:  # the loop has ended: nobody waits any more
            return
