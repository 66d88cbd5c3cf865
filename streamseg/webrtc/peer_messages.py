"""Messages: the data channel of a connection, bounded in size and rate."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiortc import RTCDataChannel

__all__ = ["LABEL", "MAX_BYTES", "Messages"]

_logger = logging.getLogger(__name__)

LABEL = "control"
MAX_BYTES = 4096
_RATE = 20.0  # messages per second that are taken
_BURST = 40.0
_UNSENT = 65_536  # bytes that may wait in the channel: the other side does not read


class Messages:
    """One data channel, of the label ``control``.

    Attributes:
        on_message: Called with each text that comes.
        refused: Messages that came and were too long, too many or no text.
        unsent: Messages that could not be sent.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_message: Callable[[str], None] | None = None
        self.refused = 0
        self.unsent = 0
        self._channel: RTCDataChannel | None = None
        self._clock = clock
        self._allowed = _BURST
        self._asked_s = clock()

    def take(self, channel: RTCDataChannel) -> None:
        """Use a channel that the other side opened, if it is the one."""
        if channel.label != LABEL or (
            self._channel is not None and self._channel.readyState != "closed"
        ):
            channel.close()
            return
        self._channel = channel
        channel.on("message", self.receive)

    def receive(self, message: str | bytes) -> None:
        """Take a message that came."""
        now = self._clock()
        self._allowed = min(_BURST, self._allowed + _RATE * (now - self._asked_s))
        self._asked_s = now
        if (
            not isinstance(message, str)
            or len(message.encode("utf-8", "replace")) > MAX_BYTES
            or self._allowed < 1
        ):
            self.refused += 1
            return
        self._allowed -= 1
        if self.on_message is not None:
            try:
                self.on_message(message)
            except Exception:
                # aiortc would end the connection's transport with it.
                _logger.exception("a message could not be handled")

    def send(self, text: str) -> None:
        """Send a message if the channel is there and is read; else it is counted and let go.

        Raises:
            ValueError: If it is longer than ``MAX_BYTES``.
        """
        size = len(text.encode())
        if size > MAX_BYTES:
            raise ValueError(f"the message has {size} bytes, at most {MAX_BYTES} are sent")
        channel = self._channel
        if channel is None or channel.readyState != "open" or channel.bufferedAmount > _UNSENT:
            self.unsent += 1
            return
        channel.send(text)
