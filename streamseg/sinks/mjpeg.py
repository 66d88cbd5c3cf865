"""MjpegSink: the picture for a browser, as motion JPEG over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import av  # before cv2: the other way round, FFmpeg's x11grab crashes the process
import cv2

from streamseg.errors import ConfigError, SinkWriteError
from streamseg.sinks.mjpeg_server import MjpegServer
from streamseg.sinks.target import printable
from streamseg.sinks.threaded import ThreadedSink
from streamseg.sinks.viewing import Viewable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.abc import SinkStatistics
    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["MjpegSink"]

_URL = re.compile(r"mjpeg://(?:\[([0-9A-Fa-f:.]+)\]|([^\s/?#@:\[\]]*))(?::(\d{1,5}))?/?")
_HOST, _PORT = "127.0.0.1", 8090


class MjpegSink(ThreadedSink):
    """Serves the pictures by HTTP: a page at ``/``, ``/stream.mjpg`` and ``/snapshot.jpg``.

    JPEG is encoded once for all viewers, in a thread, and only while somebody watches. Pictures
    that come while nobody does are dropped as ``unwatched``; the newest is kept for a snapshot.

    Args:
        url: ``mjpeg://HOST:PORT``. Without a host only this machine can watch, as with 127.0.0.1;
            without a port it is 8090, and 0 is any free one. There is no encryption and no
            password: another address is for networks where everybody may watch.
        quality: Of JPEG, 1 to 100.
        max_clients: How many may watch at once, at least 1.

    Raises:
        ConfigError: If the URL is none of these, or a number is out of its range.
    """

    capacity = 1
    live_capacity = 1

    def __init__(
        self,
        url: str = f"mjpeg://{_HOST}:{_PORT}",
        *,
        quality: int = 80,
        max_clients: int = 8,
    ) -> None:
        self._host, self._port = _parse(url)
        if not 1 <= quality <= 100:
            raise ConfigError(f"quality is {quality}, expected 1 to 100")
        if max_clients < 1:
            raise ConfigError(f"max_clients is {max_clients}, expected at least 1")
        super().__init__(f"mjpeg://{_shown(self._host)}:{self._port}")
        self._quality = quality
        self._max_clients = max_clients
        self._pictures: _JpegWriter | None = None
        self._server: MjpegServer | None = None

    @property
    def url(self) -> str:
        """Where a browser shows the picture; the real port once it is open."""
        port = self._port if self._server is None else self._server.port
        return f"http://{_shown(self._host)}:{port}/"

    @property
    def viewers(self) -> int:
        """How many watch at this moment."""
        return 0 if self._server is None else self._server.viewers

    def _make_writer(self) -> _JpegWriter:
        assert self._pictures is not None
        return self._pictures

    async def open(self, info: StreamInfo) -> None:
        """Start to serve.

        Raises:
            SinkOpenError: If the address is in use, or cannot be had.
            anyio.ClosedResourceError: If it was closed.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        if self._server is not None:
            raise RuntimeError("MjpegSink.open() was called twice")
        self._pictures = _JpegWriter(self._quality, asyncio.get_running_loop())
        self._server = MjpegServer(self._host, self._port, self._pictures, self._max_clients)
        try:
            await self._server.open()
            await super().open(info)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop to serve; viewers see the last picture. May be called twice."""
        if self._pictures is not None:
            self._pictures.close()
        with anyio.CancelScope(shield=True):
            if self._server is not None:
                await self._server.aclose()
            await super().aclose()

    def statistics(self) -> SinkStatistics:
        """Return the counters; ``unwatched``: pictures that came while nobody watched."""
        base = super().statistics()
        unwatched = 0 if self._pictures is None else self._pictures.unwatched
        dropped = {"unwatched": unwatched} if unwatched else {}
        abandoned = base.dropped.get("abandoned", 0) - unwatched
        if abandoned > 0:
            dropped["abandoned"] = abandoned
        return replace(base, dropped=dropped)


def _parse(url: str) -> tuple[str, int]:
    match = _URL.fullmatch(url)
    if match is None or int(match[3] or _PORT) > 65535:
        shown = printable(url.rpartition("@")[2].partition("?")[0])
        raise ConfigError(
            f"'{shown}' is no address to serve on, expected mjpeg://HOST:PORT, for example "
            f"mjpeg://{_HOST}:{_PORT}"
        )
    return match[1] or match[2] or _HOST, int(match[3] or _PORT)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _JpegWriter:
    """Encodes in the sink's thread, and hands the JPEGs to the server on the event loop."""

    def __init__(self, quality: int, loop: asyncio.AbstractEventLoop) -> None:
        self.written = 0
        self.unwatched = 0
        self.notices: list[str] = []
        self._quality = quality
        self._loop = loop
        self._view: Viewable | None = None
        self._encoding = threading.Lock()  # a snapshot is encoded in another thread
        self._frame: tuple[int, av.VideoFrame] | None = None  # replaced, never changed
        # From here on, of the event loop; _watchers is read by the thread.
        self._jpeg: tuple[int, bytes] | None = None
        self._watchers = 0
        self._changed = asyncio.Event()
        self._closed = False

    def open(self, info: StreamInfo) -> None:
        self._view = Viewable("bgr24", info)

    def write(self, frame: Frame, segmentation: Segmentation | None) -> None:
        number = 1 if self._frame is None else self._frame[0] + 1
        self._frame = (number, frame.video)
        if not self._watchers:
            self.unwatched += 1
            return
        jpeg = self._encode(frame.video)
        self.written += 1
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._publish, number, jpeg)

    def write_packets(self, packets: Sequence[Any]) -> None:
        pass

    def finish(self) -> None:
        pass

    def commit(self) -> None:
        pass

    def abort(self) -> None:
        self._frame = None

    def stop(self) -> None:
        pass

    def discard(self) -> None:
        pass

    def watch(self, count: int) -> None:
        self._watchers += count

    async def newest(self) -> tuple[int, bytes] | None:
        frame = self._frame
        if frame is not None and (self._jpeg is None or self._jpeg[0] < frame[0]):
            # It came while nobody watched.
            self._publish(frame[0], await anyio.to_thread.run_sync(self._encode, frame[1]))
        return self._jpeg

    async def newer(self, number: int) -> tuple[int, bytes] | None:
        while not self._closed:
            if self._jpeg is not None and self._jpeg[0] > number:
                return self._jpeg
            await self._changed.wait()
        return None

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    def _publish(self, number: int, jpeg: bytes) -> None:
        if self._jpeg is None or self._jpeg[0] < number:
            self._jpeg = (number, jpeg)
        # Wakes all that wait now; those that come later wait for the next one.
        self._changed.set()
        if not self._closed:
            self._changed = asyncio.Event()

    def _encode(self, video: av.VideoFrame) -> bytes:
        assert self._view is not None
        with self._encoding:
            # Full-range RGB: the JPEG library makes of it what JFIF says, BT.601 in full range.
            pixels = self._view.apply(video).to_ndarray()
            done, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        if not done:
            raise SinkWriteError(
                f"a picture of {video.width}x{video.height} cannot be encoded as JPEG"
            )
        return bytes(jpeg.tobytes())
