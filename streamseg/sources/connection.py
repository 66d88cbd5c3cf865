"""Connection: the life of one grabber, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from streamseg.errors import SourceReadError, StreamsegError
from streamseg.redact import redact

if TYPE_CHECKING:
    from streamseg.sources.intake import Intake
    from streamseg.sources.live import Grabber

__all__ = ["Connection"]


class Connection:
    """Makes, opens, reads and closes one grabber.

    Args:
        name: For messages.
        factory: Makes the grabber.
        intake: Where its pictures and packets go.
        changed: Told about the first picture and the end.

    Attributes:
        alive: Whether the thread is at work, or hangs.
        pictures: How many pictures it had.
        progress_s: When the last came, or when it was started.
        ended: Whether the stream came to its end.
        error: What it broke of.
    """

    def __init__(
        self,
        name: str,
        factory: Callable[[], Grabber],
        intake: Intake,
        changed: threading.Condition,
    ) -> None:
        self._name = name
        self._factory = factory
        self._intake = intake
        self._changed = changed
        self._grabber: Grabber | None = None
        self._over = threading.Event()  # set under the intake's lock
        self.alive = True
        self.pictures = 0
        self.progress_s = time.monotonic()
        self.ended = False
        self.error: StreamsegError | None = None

    def start(self) -> None:
        """Start the thread."""
        # A daemon: a call that hangs in a driver must not keep the interpreter from ending.
        threading.Thread(target=self._run, name="streamseg-live-grab", daemon=True).start()

    def abandon(self) -> None:
        """Make it end soon; from now on nothing of it arrives, even if it hangs."""
        with self._intake.lock:
            if not self._over.is_set():
                self._over.set()
                self._intake.disconnect()
        if self._grabber is not None:
            self._grabber.interrupt()

    def _run(self) -> None:
        error: StreamsegError | None = None
        try:
            self._read()
        except StreamsegError as ours:
            error = ours
        except Exception as foreign:
            error = SourceReadError(
                f"{self._name}: reading failed: {type(foreign).__name__}: {redact(str(foreign))}"
            )
            error.__cause__ = foreign
        if self._grabber is not None:
            self._grabber.close()
        with self._intake.lock:
            if not self._over.is_set():
                self._over.set()
                self._intake.disconnect()
                self.error = error
        with self._changed:
            self.alive = False
            self._changed.notify_all()

    def _read(self) -> None:
        self._grabber = grabber = self._factory()
        if self._over.is_set():
            return
        info = grabber.open()
        with self._intake.lock:
            if self._over.is_set():
                return
            self._intake.connect(info)
        while True:
            video = grabber.grab()
            now_s = time.monotonic()
            with self._intake.lock:
                if self._over.is_set():
                    return
                packets, lost = grabber.take_packets(), grabber.take_lost()
                if video is None:
                    self._intake.finish(packets, lost)
                    self.ended = True
                    return
                went_out = self._intake.take(video, now_s, packets, lost)
            del video, packets  # the memory goes back to the decoder's pool before the next wait
            self.progress_s = now_s
            if went_out:
                self.pictures += 1
                if self.pictures == 1:
                    with self._changed:
                        self._changed.notify_all()
