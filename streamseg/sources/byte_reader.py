"""ByteReader: reads a pipe for FFmpeg, so that waiting for it can be ended.

FFmpeg's own ``pipe:`` sleeps in ``read`` where neither a timeout nor a signal of ours reaches it.
"""

from __future__ import annotations

import os
import selectors
import threading

__all__ = ["ByteReader"]

_MAX_SAID = 4096  # bytes kept of what a child wrote to its stderr


class ByteReader:
    """What ``av.open`` takes for a file: an object with ``read``.

    Args:
        source: Descriptor to read from; not closed here.
        timeout_s: How long one ``read`` may wait, in seconds.
        errors: Descriptor of a child's stderr, read along so that the child does not block on it.
    """

    def __init__(self, source: int, *, timeout_s: float, errors: int | None = None) -> None:
        self.timeout_s = timeout_s
        self._source = source
        self._wake_in, self._wake_out = os.pipe()
        self._lock = threading.Lock()  # of the wake pipe: `interrupt` may come while closing
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._always_ready = False
        try:
            self._selector.register(source, selectors.EVENT_READ)
        except PermissionError:  # a regular file: never waits, and epoll refuses it
            self._always_ready = True
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._errors = errors
        if errors is not None:
            self._selector.register(errors, selectors.EVENT_READ)
        self._said = b""
        self._interrupted = False

    @property
    def said(self) -> str:
        """The last line that the child wrote to its stderr."""
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are some; none at the end.

        Raises:
            TimeoutError: If nothing came in time.
            InterruptedError: If ``interrupt`` was called.
        """
        while True:
            if self._interrupted:
                raise InterruptedError("reading was ended")
            ready = [self._source]
            if not self._always_ready:
                keys = self._selector.select(self.timeout_s)
                if not keys:
                    raise TimeoutError(f"nothing came for {self.timeout_s:g} s")
                ready = [key.fd for key, _ in keys]
            if self._errors in ready:
                self._listen()
            if self._source in ready and not self._interrupted:
                chunk = os.read(self._source, size)
                if not chunk:
                    self._listen_to_the_end()
                return chunk

    def interrupt(self) -> None:
        """End a ``read`` of another thread, and all after it."""
        self._interrupted = True
        with self._lock:
            if self._wake_out >= 0:
                os.write(self._wake_out, b"!")

    def close(self) -> None:
        """Release what it has of its own."""
        self._selector.close()
        with self._lock:
            if self._wake_out >= 0:
                os.close(self._wake_in)
                os.close(self._wake_out)
                self._wake_out = -1

    def _listen(self) -> bool:
        assert self._errors is not None
        text = os.read(self._errors, _MAX_SAID)
        self._said = (self._said + text)[-_MAX_SAID:]
        if not text:
            self._selector.unregister(self._errors)
            self._errors = None
        return bool(text)

    def _listen_to_the_end(self) -> None:
        """A child that ended has said why; it holds both pipes until it is gone."""
        while self._errors is not None:
            keys = self._selector.select(0.2)
            if not any(key.fd == self._errors for key, _ in keys) or not self._listen():
                return
