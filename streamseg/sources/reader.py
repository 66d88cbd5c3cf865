"""FileReader: demuxes and decodes a file, blocking, for one thread at a time.

Input: a path. Output: upright pictures with usable time stamps, in order; on the way, the packets
of the other streams go to a function. What is damaged is skipped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.stream

from streamseg.errors import SourceOpenError
from streamseg.sources.decoder import Decoder
from streamseg.sources.description import describe, length_s_of, rate_of, time_base_of
from streamseg.sources.opening import Opened, open_media, readable_name
from streamseg.sources.timeline import Stamps, Window
from streamseg.sources.upright import Upright

if TYPE_CHECKING:
    from streamseg.frames import StreamInfo

__all__ = ["FileReader"]

# So many reads in a row may fail before the rest of a file is given up.
_MAX_FAILURES = 100
# After the last wanted picture, sound that belongs to it is looked for so many seconds further on.
_TRAILING_S = 10
# How far before a wanted moment a seek goes, where going to it landed after it. Index and time
# stamps of some files (MPEG-TS, open groups of pictures) let a seek land too late.
_STEPS_BACK_S = (0, 2, 10, 60)
# Containers that state a length that does not come from the file's own end.
_STATES_LENGTH = frozenset({"matroska,webm"})
# A container whose number of frames counts empty chunks too: the picture before is to be shown
# again. They have a tick of their own, so the last time stamp tells how many chunks were read.
_COUNTS_EMPTY = "avi"


class FileReader:
    """Reads one file from beginning to end, or a part of it.

    Args:
        path: File or pattern of numbered images.
        start_s: Where to begin, in seconds after the file's beginning; None leaves time alone.
        duration_s: Length to read in seconds; None for all.
        side_streams: Whether packets of other streams are wanted.
        rate: Frames per second of images.
        threads: Threads for decoder and filters.
        on_packet: Called with each packet of a side stream, in order.
    """

    def __init__(
        self,
        path: str,
        *,
        start_s: float | None,
        duration_s: float | None,
        side_streams: bool,
        rate: Fraction | None,
        threads: int,
        on_packet: Callable[[Any], None],
    ) -> None:
        self._path = path
        self._name = readable_name(path)
        self._start_s = start_s
        self._duration_s = duration_s
        self._side_streams = side_streams
        self._rate = rate
        self._threads = threads
        self._on_packet = on_packet
        self._opened: Opened | None = None
        self._upright = Upright(threads=threads)
        self._pictures: Iterator[av.VideoFrame] = iter(())
        self._first: av.VideoFrame | None = None
        self._notices: list[str] = []
        self._missing = 0
        self._whole = False
        self._decoder: Decoder | None = None
        self._reached = Fraction(0)
        self._last_dts = -1

    @property
    def name(self) -> str:
        """The path, for messages."""
        return self._name

    @property
    def notices(self) -> list[str]:
        """What the user should know so far, a line each."""
        return [*self._notices, *self._upright.notices]

    @property
    def dropped(self) -> dict[str, int]:
        """What could not be delivered: ``undecodable`` frames, ``missing`` frames."""
        causes = {"undecodable": self._undecodable, "missing": self._missing}
        return {cause: count for cause, count in causes.items() if count}

    @property
    def _undecodable(self) -> int:
        if self._decoder is None:
            return 0
        return self._decoder.unseen if self._whole else self._decoder.damaged

    def open(self) -> StreamInfo:
        """Open the file, go to the start and decode the first picture.

        Raises:
            SourceOpenError: If there is no picture to be had.
        """
        try:
            opened = self._open()
            self._notices += opened.notices
            window = self._window(opened)
            if window.first is not None:
                opened = self._seek(opened, window)
            self._pictures = self._read(opened, window)
            self._first = next(self._pictures, None)
            if self._first is None:
                raise self._no_picture(window)
            return describe(
                self._name,
                opened,
                window,
                self._upright,
                self._first,
                start_s=self._start_s,
                duration_s=self._duration_s,
            )
        except av.FFmpegError as error:
            self.close()
            raise SourceOpenError(f"{self._name} cannot be read: {_reason(error)}") from error
        except BaseException:
            self.close()
            raise

    def frames(self) -> Iterator[av.VideoFrame]:
        """Yield all pictures, the first one included; to be called once, after ``open``."""
        first, self._first = self._first, None
        if first is not None:
            yield first
            del first
            yield from self._pictures

    def close(self) -> None:
        """Close the file; its streams must not be used any more. May be called again."""
        self._pictures = iter(())
        self._first = None
        if self._decoder is not None:
            self._decoder.close()
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.container.close()

    def _open(self) -> Opened:
        self._opened = open_media(
            self._path,
            rate=self._rate,
            side_streams=self._side_streams,
            threads=self._threads,
        )
        return self._opened

    # ---- where to begin ----

    def _window(self, opened: Opened) -> Window:
        video = opened.video
        base = time_base_of(video)
        start: int | None = opened.container.start_time  # PyAV's stub leaves out the None
        if start is not None:
            origin = Fraction(start, 1_000_000)
        else:
            origin = Fraction(video.start_time or 0) * base
        length_s = length_s_of(opened)
        if self._start_s is not None and length_s is not None and self._start_s >= length_s:
            raise SourceOpenError(self._beyond(length_s))
        return Window.of(base, origin, self._start_s, self._duration_s)

    def _beyond(self, length_s: float) -> str:
        return (
            f"{self._name} is {length_s:.3f} s long: a start of {self._start_s:g} s is beyond its "
            "end"
        )

    def _seek(self, opened: Opened, window: Window) -> Opened:
        """Go to a key frame at or before the window, or reopen the file where that fails."""
        assert window.first is not None
        video, base = opened.video, time_base_of(opened.video)
        begin = window.shift - round(_exact_start(self._start_s) / base)
        for back_s in _STEPS_BACK_S:
            target = window.first - round(back_s / base)
            if target <= begin:
                break  # reading from the beginning is as good
            try:
                opened.container.seek(target, stream=video)
                landed = _first_stamp(opened)
                if landed is None or landed > window.first:
                    continue
                opened.container.seek(target, stream=video)
            except av.FFmpegError:
                break
            return opened
        self.close()
        return self._open()

    def _no_picture(self, window: Window) -> SourceOpenError:
        if window.first is not None and self._reached:
            return SourceOpenError(self._beyond(float(self._reached)))
        lost = self._undecodable
        detail = f", {lost} frames are damaged" if lost else ""
        return SourceOpenError(
            f"{self._name}: no picture could be decoded{detail}; does another player show one?"
        )

    # ---- reading ----

    def _read(self, opened: Opened, window: Window) -> Iterator[av.VideoFrame]:
        base = time_base_of(opened.video)
        rate = rate_of(opened.video) or Fraction(25)
        stamps = Stamps(1 / (rate * base), 1 / base)
        decoder = self._decoder = Decoder(opened.video)
        lengths: dict[int, Fraction] = {}
        delivered = 0
        ended = False
        for packet in self._packets(opened):
            if packet is not None and packet.stream_index != opened.video.index:
                self._pass_on(packet, window, lengths)
                if ended and _passed(opened, lengths, window):
                    break
                continue
            if ended:
                if packet is not None and _far_beyond(packet, window):
                    break
                continue
            if packet is not None and packet.dts is not None:
                self._last_dts = max(self._last_dts, packet.dts)
            for video in decoder.decode(packet):
                video.pts = stamps.next(video.pts, video.dts)
                video.time_base = base
                self._reached = (video.pts - window.shift) * base
                if window.too_early(video.pts):
                    continue
                if window.too_late(video.pts):
                    ended = True
                    break
                video.pts -= window.shift
                for picture in self._upright.push(video):
                    delivered += 1
                    yield picture
            if ended:
                if not opened.sides:
                    break
                if _passed(opened, lengths, window):
                    break
        for picture in self._upright.flush():
            delivered += 1
            yield picture
        self._sum_up(opened, stamps, lengths, delivered, whole=not ended and window.first is None)

    def _packets(self, opened: Opened) -> Iterator[Any]:
        """Yield packets, then None once for the decoder to give up what it holds back."""
        video, failures = opened.video, 0
        while True:
            try:
                for packet in opened.container.demux(video, *opened.sides):
                    # PyAV ends with an empty packet for each stream. (A stream may have an empty
                    # packet in mid-stream: the end of a subtitle. That one has a time stamp.)
                    if not packet.size and packet.dts is None and packet.pts is None:
                        continue
                    failures = 0
                    yield packet
                break
            except av.FFmpegError as error:
                failures += 1
                if failures == _MAX_FAILURES or isinstance(error, av.PermissionError):
                    self._notices.append(
                        f"reading stopped at {float(self._reached):.3f} s: {_reason(error)}"
                    )
                    break
        yield None

    def _pass_on(self, packet: Any, window: Window, lengths: dict[int, Fraction]) -> None:
        place = window.place(packet)
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            return
        end = (stamp + (packet.duration or 0)) * packet.time_base
        lengths[packet.stream_index] = max(end, lengths.get(packet.stream_index, end))
        if place == 0:
            self._on_packet(packet)

    # ---- what is told ----

    def _sum_up(
        self,
        opened: Opened,
        stamps: Stamps,
        lengths: dict[int, Fraction],
        delivered: int,
        *,
        whole: bool,
    ) -> None:
        self._whole = whole
        lost = self._undecodable
        if lost:
            self._notices.append(
                f"{_frames(lost)} could not be decoded and left out: the file is damaged"
            )
        if stamps.made_up:
            rate = float(rate_of(opened.video) or 25)
            self._notices.append(
                f"{_frames(stamps.made_up)} without a time stamp in the file: placed at {rate:g} a "
                "second"
            )
        if stamps.repaired:
            self._notices.append(
                f"{_frames(stamps.repaired)} with a time stamp not after the one before: moved to "
                "after it"
            )
        if stamps.jumps:
            self._notices.append(
                f"time jumps back {stamps.jumps} times: what follows was moved to after it; check "
                "that the sound is in step"
            )
        if not whole:
            return
        stated = opened.video.frames
        found = self._decoder.packets if self._decoder is not None else 0
        if opened.container.format.name == _COUNTS_EMPTY:
            found = max(found, self._last_dts + 1)
        if stated > found:
            self._missing = stated - found
            self._notices.append(
                f"the file is cut short: {delivered} of {stated} frames could be read"
            )
        elif opened.container.format.name in _STATES_LENGTH and self._side_streams:
            stated_s = (opened.container.duration or 0) / 1_000_000
            start = Fraction(opened.container.start_time or 0, 1_000_000)
            reached = max([self._reached, *lengths.values()]) - start
            if stated_s - reached > max(0.5, stated_s * 0.02):
                self._notices.append(
                    f"the file is cut short: {float(reached):.3f} of {stated_s:.3f} s could be read"
                )


def _exact_start(start_s: float | None) -> Fraction:
    return Fraction(start_s or 0.0).limit_denominator(10_000_000)


def _first_stamp(opened: Opened) -> int | None:
    """Decode up to the first picture and return its pts; None where there is none."""
    for packet in opened.container.demux(opened.video):
        try:
            pictures = opened.video.codec_context.decode(packet)
        except av.FFmpegError:
            continue
        if pictures:
            return pictures[0].pts
    return None


def _passed(opened: Opened, lengths: dict[int, Fraction], window: Window) -> bool:
    """Whether all sound up to the window's end has been read."""
    assert window.end is not None
    end = (window.end - window.shift) * window.time_base
    return all(
        lengths.get(stream.index, Fraction(-1)) >= end
        for stream in opened.sides
        if stream.type == "audio"
    )


def _far_beyond(packet: Any, window: Window) -> bool:
    assert window.end is not None
    stamp: int | None = packet.dts if packet.dts is not None else packet.pts
    return stamp is None or stamp > window.end + round(_TRAILING_S / window.time_base)


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _reason(error: av.FFmpegError) -> str:
    return error.strerror or type(error).__name__
