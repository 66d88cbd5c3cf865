"""Pacer: holds pictures back until it is their time."""

from __future__ import annotations

import threading
import time
from fractions import Fraction

__all__ = ["Pacer"]

# A picture that is late goes out at once, and those after it catch up. One that is later than this
# (a server that had nothing for a while) starts a new count, or all that follow would come at once.
_MAX_LATE_S = 1.0
# A step in the time stamps longer than this is a jump and not a pause to be waited for.
_MAX_STEP_S = 10


class Pacer:
    """Lets the pictures of a recording, or of a stream that comes in pieces, out in real time."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._begin: tuple[Fraction, float] | None = None
        self._last = Fraction(0)

    def wait(self, moment: Fraction) -> bool:
        """Wait until it is time for a picture; False once ``stop`` was called.

        Args:
            moment: The picture's time in seconds, on its stream's clock.
        """
        now_s = time.monotonic()
        if self._begin is not None and not 0 <= moment - self._last <= _MAX_STEP_S:
            self._begin = None
        self._last = moment
        if self._begin is not None:
            due_s = self._begin[1] + float(moment - self._begin[0])
            if due_s > now_s:
                return not self._stop.wait(due_s - now_s)
            if now_s - due_s < _MAX_LATE_S:
                return not self._stop.is_set()
        self._begin = (moment, now_s)
        return not self._stop.is_set()

    def stop(self) -> None:
        """End a wait, from any thread; there is no other after it."""
        self._stop.set()
