"""DisplaySink: a preview window."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamseg.sinks.threaded import ThreadedSink
from streamseg.sinks.viewing import Viewable, view_size
from streamseg.sinks.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamseg.abc import SinkStatistics
    from streamseg.commands import Command
    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["DisplaySink"]

_KEYS: dict[str, Command] = {
    "q": "quit",
    "\x1b": "quit",
    " ": "pause",
    "e": "next-effect",
    "m": "show-mask",
    "s": "snapshot",
}
_OVERLAY_S = 0.25  # numbers that change faster cannot be read


class DisplaySink(ThreadedSink):
    """Shows pictures in a window, with OpenCV's HighGUI, in a process of its own.

    Keys: q or Esc quits, space pauses, e takes the next effect, m shows the mask, s keeps a still.
    Closing the window quits, too; pictures that come after that are dropped as ``window closed``.

    Args:
        title: Of the window.
        on_command: Called on the event loop with what the user asks for; None to ask nobody.
        overlay: Called on the event loop, four times a second at most, for lines of text to write
            over the picture; None for no text.
        max_size: (width, height) in pixels that larger pictures are made smaller to; None for none.
    """

    capacity = 1  # a second picture that waits would only be an older one
    live_capacity = 1

    def __init__(
        self,
        title: str = "streamseg",
        *,
        on_command: Callable[[Command], None] | None = None,
        overlay: Callable[[], str] | None = None,
        max_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__("display")
        self._title = title
        self._on_command = on_command
        self._overlay = overlay
        self._overlay_due_s = 0.0
        self._max_size = max_size
        self._pictures: _WindowWriter | None = None

    def _make_writer(self) -> _WindowWriter:
        loop = asyncio.get_running_loop()

        def tell(event: str) -> None:
            command = _command_of(event)
            if command is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._command, command)

        self._pictures = _WindowWriter(Window(self._title, tell), self._max_size)
        return self._pictures

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Show a picture; waits while another one waits to be shown.

        Raises:
            anyio.ClosedResourceError: If the sink is closed, finished, or was never opened.
            SinkWriteError: If the window's process ended, now or earlier.
        """
        if self._overlay is not None and self._pictures is not None:
            now = time.monotonic()
            if now >= self._overlay_due_s:
                self._overlay_due_s = now + _OVERLAY_S
                self._pictures.text = self._overlay()
        await super().send(frame, segmentation)

    def statistics(self) -> SinkStatistics:
        """Return the counters; ``window closed``: pictures that came after the user closed it."""
        base = super().statistics()
        unseen = 0 if self._pictures is None else self._pictures.unseen
        dropped = {"window closed": unseen} if unseen else {}
        abandoned = base.dropped.get("abandoned", 0) - unseen
        if abandoned > 0:
            dropped["abandoned"] = abandoned
        return replace(base, dropped=dropped)

    def _command(self, command: Command) -> None:
        if self._on_command is not None and not self._closed:
            self._on_command(command)


def _command_of(event: str) -> Command | None:
    """Return what an event of the window asks for, None where that is nothing."""
    if event == "closed":
        return "quit"
    what, _, code = event.partition(" ")
    if what != "key" or not code.isdecimal():
        return None
    return _KEYS.get(chr(int(code) & 0xFF).lower())


class _WindowWriter:
    """The work of the thread: convert and send."""

    def __init__(self, window: Window, max_size: tuple[int, int] | None) -> None:
        self.written = 0
        self.unseen = 0
        self.notices: list[str] = []
        self.text = ""
        self._window = window
        self._max_size = max_size
        self._view: Viewable | None = None

    def open(self, info: StreamInfo) -> None:
        self._view = Viewable("bgr24", info, max_size=self._max_size)
        size = view_size(info.width, info.height, info.sample_aspect_ratio, self._max_size)
        self._window.open(*size)

    def write(self, frame: Frame, segmentation: Segmentation | None) -> None:
        if self._window.closed_by_user:
            self.unseen += 1
            return
        assert self._view is not None
        pixels = self._view.apply(frame.video).to_ndarray()
        # Of odd widths it is a view with padding.
        self._window.send(np.ascontiguousarray(pixels), self.text)
        self.written += 1

    def write_packets(self, packets: Sequence[Any]) -> None:
        pass

    def finish(self) -> None:
        pass

    def commit(self) -> None:
        pass

    def abort(self) -> None:
        self._window.close()

    def stop(self) -> None:
        self._window.stop()

    def discard(self) -> None:
        pass
