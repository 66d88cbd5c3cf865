"""FileSource: frames of a video file, an image, or numbered images.

One thread of its own demuxes and decodes, a few frames ahead of what is asked for. Example:

    async with FileSource("talk.mp4", start_s=60, duration_s=10) as source:
        while True:
            try:
                frame = await source.receive()
            except anyio.EndOfStream:
                break
            packets = source.take_packets()
"""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from streamseg.abc import Source, SourceStatistics
from streamseg.errors import ConfigError, SourceReadError, StreamsegError
from streamseg.frames import Frame
from streamseg.handoff import FromThread
from streamseg.sources.reader import FileReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.frames import StreamInfo

__all__ = ["FileSource"]

# Frames that wait to be received; enough to even out pictures that take longer to decode. A frame
# of 1080p is 3 MB. The decoder holds about as many again as it has threads.
_CAPACITY = 4
_MAX_THREADS = 8
_JOIN_S = 1.5


class FileSource(Source):
    """Reads a file as FFmpeg can decode it: video, image, or images named by number.

    Frames are upright, progressive, of one size and pixel format (`streamseg.sources.upright`).
    Their pts are the file's own, strictly increasing, never None (`streamseg.sources.timeline`);
    with ``start_s`` the time of all streams is moved so that the start is 0.

    Damage in the file is no error once there was one picture: what decodes is delivered, the rest
    is counted and told in ``notices``.

    Args:
        path: A file, or a pattern of images such as ``frame_%05d.png``; the lowest number found is
            the first.
        start_s: Where to begin, in seconds after the file's own beginning, exact to the frame.
        duration_s: How much to read, in seconds; the end is exclusive.
        side_streams: Whether to deliver packets of audio, subtitle, data and attachment streams.
        rate: Frames per second of an image or images; 25 if None. Videos have their own.

    Raises:
        ConfigError: If a number is negative or not finite.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        start_s: float | None = None,
        duration_s: float | None = None,
        side_streams: bool = True,
        rate: Fraction | float | None = None,
    ) -> None:
        if start_s is not None and not (math.isfinite(start_s) and start_s >= 0):
            raise ConfigError(f"start_s is {start_s}, expected 0 or more seconds")
        if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
            raise ConfigError(f"duration_s is {duration_s}, expected more than 0 seconds")
        if rate is not None and not (math.isfinite(rate) and 0 < rate <= 1000):
            raise ConfigError(f"rate is {rate}, expected more than 0, at most 1000 frames a second")
        # Bounded by the frames: the thread that fills it also decodes, and stops while _CAPACITY
        # frames wait. Between two frames lies as much sound as the file has there: little, unless
        # it keeps all sound in one piece, and then no more than that, compressed.
        self._packets: deque[Any] = deque()
        self._reader = FileReader(
            os.fspath(path),
            start_s=start_s,
            duration_s=duration_s,
            side_streams=side_streams,
            rate=None if rate is None else Fraction(rate).limit_denominator(100_000),
            threads=_thread_count(),
            on_packet=self._packets.append,
        )
        self._info: StreamInfo | None = None
        self._handoff: FromThread[Frame] | None = None
        self._thread: threading.Thread | None = None
        self._decoded = _Count()
        self._delivered = 0
        self._closed = False
        # Not anyio's shared limiter: closing must not wait for other people's threads.
        self._limiter: anyio.CapacityLimiter | None = None

    async def open(self) -> StreamInfo:
        """Open the file and decode its first picture; opened again, return the same.

        Raises:
            SourceOpenError: If it cannot be read as video.
            anyio.ClosedResourceError: If the source was closed.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        if self._info is not None:
            return self._info
        self._limiter = anyio.CapacityLimiter(1)
        try:
            # Waits for the worker also when cancelled, so that nothing is left open behind it.
            info = await anyio.to_thread.run_sync(self._reader.open, limiter=self._limiter)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._reader.close, limiter=self._limiter)
            raise
        self._handoff = FromThread(_CAPACITY)
        # Not a daemon by need but in case of a file system that hangs: it must not keep us alive.
        self._thread = threading.Thread(
            target=_run,
            args=(self._reader, self._handoff, self._decoded),
            name="streamseg-file-source",
            daemon=True,
        )
        self._info = info
        self._thread.start()
        return info

    async def receive(self) -> Frame:
        """Return the next frame, waiting for it."""
        if self._closed or self._handoff is None:
            raise anyio.ClosedResourceError
        await anyio.lowlevel.checkpoint()  # before, not after: a frame taken is a frame returned
        try:
            frame = await self._handoff.get()
        except anyio.EndOfStream:
            if self._closed:
                raise anyio.ClosedResourceError from None
            raise
        self._delivered += 1
        return frame

    def take_packets(self) -> list[Any]:
        """Return, once each and in order, the side streams' packets read so far.

        A few frames' worth more than the frames received, because the thread reads ahead. None may
        be used after ``aclose``: a packet knows its stream, and the stream is gone then.
        """
        packets = []
        # One popleft at a time is safe against the thread's append; iterating would not be.
        while self._packets:
            packets.append(self._packets.popleft())
        return packets

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know of this file so far, a line each; complete at its end."""
        return self._reader.notices

    def statistics(self) -> SourceStatistics:
        """Return the counters of this moment.

        ``dropped``: ``undecodable`` frames that are damaged, ``missing`` frames that the
        file states and does not have, ``closed`` frames decoded but not received before closing.
        """
        dropped = self._reader.dropped
        if self._closed and self._decoded.value > self._delivered:
            dropped["closed"] = self._decoded.value - self._delivered
        return SourceStatistics(delivered=self._delivered, dropped=dropped)

    async def aclose(self) -> None:
        """Stop the thread and close the file; what waits in ``receive`` ends."""
        self._closed = True
        if self._handoff is not None:
            self._handoff.close()
        if self._limiter is None:
            return
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._join, limiter=self._limiter)
        self._packets.clear()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                return  # a read that hangs: closing the file under it would crash
        self._reader.close()

    def __del__(self) -> None:
        handoff: FromThread[Frame] | None = getattr(self, "_handoff", None)
        if handoff is not None and not self._closed:
            handoff.close()  # first: a warning may be an error
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._info is not None else "new"
        return f"FileSource({self._reader.name!r}, {state})"


class _Count:
    """A number that one thread raises and another one reads."""

    value = 0


def _run(reader: FileReader, handoff: FromThread[Frame], decoded: _Count) -> None:
    """Decode until the end or until nobody wants more; the source's thread.

    It holds no reference to the source, so that one that was forgotten can be collected.
    """
    error: StreamsegError | None = None
    try:
        for index, video in enumerate(reader.frames()):
            decoded.value += 1
            if not handoff.put(Frame(video, index, time.monotonic())):
                break
    except StreamsegError as ours:
        error = ours
    except Exception as foreign:
        error = SourceReadError(f"{reader.name}: decoding failed: {foreign or type(foreign)}")
        error.__cause__ = foreign
    handoff.end(error)


def _thread_count() -> int:
    return min(len(os.sched_getaffinity(0)), _MAX_THREADS)
