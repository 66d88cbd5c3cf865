"""PacedSource: a recorded file, played in real time as if it came from a camera."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av

from streamseg.errors import SourceOpenError, SourceReadError
from streamseg.sources.live import Grabber, LiveSource
from streamseg.sources.opening import readable_name
from streamseg.sources.pacing import Pacer
from streamseg.sources.reader import FileReader

if TYPE_CHECKING:
    from streamseg.frames import StreamInfo

__all__ = ["PacedSource"]

_STALL_S = 30.0  # a sparse recording, a slide show


class PacedSource(LiveSource):
    """Plays what `FileSource` can read, each frame at its time; the newest wins.

    Args:
        path: A file, or a pattern of numbered images.
        loop: Whether to begin again at the end; pts and sound go on.
        side_streams: Whether to deliver the packets of sound.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        loop: bool = False,
        side_streams: bool = True,
    ) -> None:
        place = os.fspath(path)
        super().__init__(
            lambda: _FileGrabber(place, loop=loop, side_streams=side_streams),
            name=readable_name(place),
            reconnect=None,
            stall_s=_STALL_S,
        )


class _FileGrabber(Grabber):
    def __init__(self, path: str, *, loop: bool, side_streams: bool) -> None:
        self.name = readable_name(path)
        self._path = path
        self._loop = loop
        self._side_streams = side_streams
        self._pacer = Pacer()
        self._reader: FileReader | None = None
        self._pictures: Iterator[av.VideoFrame] = iter(())
        self._packets: deque[Any] = deque()  # bounded by `take_packets` after every picture
        self._info: StreamInfo | None = None
        self._offset = Fraction(0)  # of this round, in seconds
        self._end = Fraction(0)  # of what was played so far, on the file's clock
        self._begin: Fraction | None = None
        self._counted = 0

    def open(self) -> StreamInfo:
        self._info = info = self._open()
        if self._loop:
            return replace(info, live=True, frame_count=None, duration_s=None)
        return replace(info, live=True)

    def _open(self) -> StreamInfo:
        reader = self._reader = FileReader(
            self._path,
            start_s=None,
            duration_s=None,
            side_streams=self._side_streams,
            rate=None,
            threads=2,  # in real time there is no hurry
            on_packet=self._add,
        )
        info = reader.open()
        self._pictures = reader.frames()
        return info

    def _add(self, packet: Any) -> None:
        ticks = round(self._offset / packet.time_base)
        if packet.pts is not None:
            packet.pts += ticks
        if packet.dts is not None:
            packet.dts += ticks
        self._packets.append(packet)

    def grab(self) -> av.VideoFrame | None:
        video = self._next()
        if video is None and self._loop:
            self._rewind()
            video = self._next()
        if video is None:
            return None
        assert video.pts is not None
        assert video.time_base is not None
        moment = video.pts * video.time_base
        if self._begin is None:
            self._begin = moment
        self._end = moment + self._length_of(video)
        video.pts += round(self._offset / video.time_base)
        if not self._pacer.wait(video.pts * video.time_base):
            raise SourceReadError(f"{self.name}: reading was ended")
        return video

    def _next(self) -> av.VideoFrame | None:
        try:
            return next(self._pictures, None)
        except av.FFmpegError as error:
            reason = error.strerror or type(error).__name__
            raise SourceReadError(f"{self.name}: decoding failed: {reason}") from error

    def _length_of(self, video: av.VideoFrame) -> Fraction:
        assert self._info is not None
        if self._info.average_rate:
            return 1 / self._info.average_rate
        return video.duration * (video.time_base or Fraction(1, 25)) or Fraction(1, 25)

    def _rewind(self) -> None:
        """Begin again; the first picture comes one frame's time after the last one."""
        assert self._reader is not None
        assert self._begin is not None
        self._counted = 0
        self._reader.close()
        self._offset += self._end - self._begin
        try:
            self._open()
        except SourceOpenError as error:
            raise SourceReadError(f"{error} (it was readable before)") from error

    def take_packets(self) -> list[Any]:
        packets = list(self._packets)
        self._packets.clear()
        return packets

    def take_lost(self) -> int:
        if self._reader is None:
            return 0
        lost = self._reader.dropped.get("undecodable", 0)
        new, self._counted = max(0, lost - self._counted), max(lost, self._counted)
        return new

    def close(self) -> None:
        self._pictures = iter(())
        self._packets.clear()
        if self._reader is not None:
            with contextlib.suppress(av.FFmpegError):
                self._reader.close()

    def interrupt(self) -> None:
        self._pacer.stop()
