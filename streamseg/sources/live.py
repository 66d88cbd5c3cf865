"""LiveSource: what all sources that cannot wait have in common.

A grabber, which knows one kind of device, is driven by a thread of its own; a second thread watches
it, and makes a new grabber when the old one breaks or stalls (`streamseg.sources.capture`). Of the
frames, the newest wins: one waits to be received, and a newer one takes its place. So a consumer
that is slower than the device always gets the newest picture, and nothing grows.

All frames are on one time line (`streamseg.sources.live_time`) in units of 1/90000 s: their pts are
strictly increasing over reconnects and jumps of the device's clock, and a gap in them is as long as
the gap was.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.lowlevel

from streamseg.abc import Source, SourceStatistics
from streamseg.errors import ConfigError
from streamseg.sources.capture import Capture
from streamseg.sources.newest import Newest
from streamseg.sources.reconnect import Reconnect

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av

    from streamseg.frames import Frame, StreamInfo

__all__ = ["Grabber", "LiveSource", "Reconnect"]

_CLOSE_S = 1.6  # the watching thread leaves a hung one behind sooner than that


class Grabber(Protocol):
    """One device, or one connection to a server; blocking.

    It is made, opened once, read and closed in one thread; only ``interrupt`` comes from another.
    A connection that broke is closed and never opened again: the next one is a new grabber.

    Attributes:
        name: For messages, without credentials, printable.
    """

    name: str

    def open(self) -> StreamInfo:
        """Open the device.

        Returns:
            What is known of it. Size, pixel format and time base are those of what ``grab``
            returns; the source corrects them by the first picture.

        Raises:
            SourceOpenError: If it cannot be opened; one line, with what to try.
        """
        raise NotImplementedError

    def grab(self) -> av.VideoFrame | None:
        """Return the next picture, waiting for it; None when the stream ended for good.

        The picture has the device's own pts and time base, or pts None where the device knows
        none: it is then placed by the time at which it was grabbed.

        Raises:
            SourceReadError: If the device broke or is gone.
        """
        raise NotImplementedError

    def take_packets(self) -> list[Any]:
        """Return, once each, the side streams' packets read so far, on the device's time line."""
        return []

    def take_lost(self) -> int:
        """Return, once each, how many pictures the device had that could not be decoded."""
        return 0

    def close(self) -> None:
        """Release the device; also after an ``open`` that failed. Must not raise."""
        return

    def interrupt(self) -> None:
        """Make an ``open`` or ``grab`` that is blocked in its thread end soon; best effort.

        Called from another thread, at any time, also before ``open`` and after ``close``; returns
        at once and must not raise.
        """
        return


class LiveSource(Source):
    """Frames of a device or connection, the newest first to go out.

    ``open`` returns when the first picture is there, so that what it says of the pictures is true.

    Args:
        grabber_factory: Makes a grabber that is not open yet; called in the thread that uses it,
            once for each connection.
        name: For messages, without credentials, printable.
        reconnect: What to do about a connection that breaks; None lets the source fail.
        stall_s: Seconds without a picture after which the connection counts as broken, more than
            0; None waits for ever.
        max_waiting: How many frames may wait to be received; the oldest gives way.

    Raises:
        ConfigError: If a number is out of its range.
    """

    def __init__(
        self,
        grabber_factory: Callable[[], Grabber],
        *,
        name: str,
        reconnect: Reconnect | None,
        stall_s: float | None,
        max_waiting: int = 1,
    ) -> None:
        if stall_s is not None and not stall_s > 0:
            raise ConfigError(f"stall_s is {stall_s}, expected more than 0 seconds")
        if max_waiting < 1:
            raise ConfigError(f"max_waiting is {max_waiting}, expected at least 1")
        self._name = name
        self._grabber_factory = grabber_factory
        self._reconnect = reconnect
        self._stall_s = stall_s
        self._max_waiting = max_waiting
        self._capture: Capture | None = None
        self._delivered = 0
        self._left_waiting = 0
        self._closed = False

    async def open(self) -> StreamInfo:
        """Open the device and wait for its first picture; opened again, return the same.

        Raises:
            SourceOpenError: If it cannot be opened, or has no picture.
            anyio.ClosedResourceError: If the source was closed.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        if self._capture is None:
            self._capture = Capture(
                self._grabber_factory,
                name=self._name,
                reconnect=self._reconnect,
                stall_s=self._stall_s,
                frames=Newest(self._max_waiting),
                loop=asyncio.get_running_loop(),
            )
            self._capture.start()
        try:
            await self._capture.opened.wait()
        except BaseException:
            await self.aclose()
            raise
        if self._closed:
            raise anyio.ClosedResourceError
        if self._capture.info is None:
            error = self._capture.error
            await self.aclose()
            assert error is not None
            raise error.with_traceback(None)
        return self._capture.info

    async def receive(self) -> Frame:
        """Return the newest frame that was not returned yet, waiting for one.

        Raises:
            anyio.EndOfStream: After the last frame, every time.
            anyio.ClosedResourceError: If the source is closed or was never opened.
            SourceReadError: If the stream broke and could not be had again, every time.
        """
        if self._closed or self._capture is None:
            raise anyio.ClosedResourceError
        await anyio.lowlevel.checkpoint()  # before, not after: a frame taken is a frame returned
        try:
            frame = await self._capture.frames.get()
        except anyio.EndOfStream:
            if self._closed:
                raise anyio.ClosedResourceError from None
            raise
        self._delivered += 1
        return frame

    def take_packets(self) -> list[Any]:
        """Return, once each and in order, the side packets read so far, on the frames' time line.

        None may be used after ``aclose``.
        """
        return [] if self._capture is None or self._closed else self._capture.take_packets()

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know of the stream so far, a line each; the latest of them."""
        return () if self._capture is None else self._capture.notices

    def statistics(self) -> SourceStatistics:
        """Return the counters of this moment.

        ``dropped``: ``superseded`` frames that a newer one took the place of, ``undecodable`` ones
        that were damaged, ``closed`` ones that waited when the source was closed.
        """
        dropped: dict[str, int] = {}
        reconnects = 0
        if self._capture is not None:
            dropped = self._capture.dropped()
            reconnects = self._capture.reconnects
        if self._left_waiting:
            dropped["closed"] = dropped.get("closed", 0) + self._left_waiting
        return SourceStatistics(delivered=self._delivered, dropped=dropped, reconnects=reconnects)

    async def aclose(self) -> None:
        """Close the device; what waits in ``receive`` ends. Takes less than 2 s.

        A device that hangs in a call is left to a daemon thread, which closes it when the call
        returns.
        """
        self._closed = True
        if self._capture is None:
            return
        self._left_waiting += self._capture.frames.close()
        self._capture.stop()
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
            await self._capture.done.wait()
            self._capture.close()

    def __del__(self) -> None:
        capture: Capture | None = self.__dict__.get("_capture")
        if capture is not None and not self._closed:
            capture.stop()  # first: a warning may be an error
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._capture is not None else "new"
        return f"{type(self).__name__}({self._name!r}, {state})"
