"""Decoding that keeps up or lets go, and sound that is not decoded."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import av
import av.error
from aiortc.mediastreams import VIDEO_TIME_BASE

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamseg.webrtc.tuning_packets import IncomingFrame

__all__ = ["AudioInlet", "Inlet", "VideoInlet", "is_keyframe"]

_BACKLOG = 30  # encoded frames before the decoder: a second, 300 kB at 2.5 Mbit/s
_ASK_KEYFRAME_S = 0.5
# Pictures of the largest size allowed that are decoded a second: 60, and what clocks differ by.
_LARGEST_PER_S = 72
_LEAST = 4  # any picture counts as a quarter of the largest: there is work besides its pixels


class _Unwrapped:
    """Counts a 32-bit time stamp on past its end, from 0."""

    def __init__(self) -> None:
        self._raw: int | None = None
        self._value = 0

    def map(self, raw: int) -> int:
        if self._raw is not None:
            self._value += ((raw - self._raw + 0x80000000) & 0xFFFFFFFF) - 0x80000000
        self._raw = raw
        return self._value


class Inlet:
    """Takes the place of the queue between a receiver of aiortc and its decoder thread.

    The thread is aiortc's: it calls ``get``, which does the decoding and returns, None, when the
    receiver stops. ``put`` belongs to the event loop and never waits.
    """

    def __init__(self) -> None:
        self.finished = threading.Event()
        self._changed = threading.Condition()
        self._frames: deque[tuple[str, IncomingFrame]] = deque()  # bounded by _BACKLOG
        self._stopped = False

    def put(self, task: tuple[Any, IncomingFrame] | None) -> None:
        """Take an encoded frame with its codec, or None to end the thread."""
        if task is None:
            self.stop()
            return
        codec, first = task
        with self._changed:
            if self._stopped:
                return
            for frame in (first, *first.following):
                self._frames.append((codec.name.upper(), frame))
            first.following = []
            if len(self._frames) > _BACKLOG:
                self._overflow(len(self._frames))
                self._frames.clear()
            self._changed.notify()

    def stop(self) -> None:
        """Let go what waits; the thread ends after the frame that it has."""
        with self._changed:
            self._stopped = True
            self._frames.clear()
            self._changed.notify()

    def get(self) -> None:
        """Work until stopped; called by the thread."""
        main = threading.main_thread()
        try:
            while True:
                with self._changed:
                    while not self._frames and not self._stopped:
                        # aiortc's thread is no daemon: without this look an interpreter whose
                        # connection was not closed would wait for it for ever.
                        if not self._changed.wait(1.0) and not main.is_alive():
                            raise SystemExit
                    if self._stopped:
                        return
                    codec, frame = self._frames.popleft()
                self._take(codec, frame)
        finally:
            self.finished.set()

    def _take(self, codec: str, frame: IncomingFrame) -> None:
        raise NotImplementedError

    def _overflow(self, count: int) -> None:
        """Called with the lock held, when this many frames are let go."""


class Allowance:
    """How many pixels may be decoded: so many a second, a second's worth at once.

    Where it is used up there is a pause until half a second's worth is there again: pictures depend
    on the ones before them, and each time that some are left out costs a keyframe.

    Args:
        max_pixels: Of the largest picture.
        clock: Seconds that only grow.
    """

    def __init__(self, max_pixels: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._least = max_pixels // _LEAST
        self._per_s = float(_LARGEST_PER_S * max_pixels)
        self._clock = clock
        self._left, self._left_s = self._per_s, clock()
        self._paused = False

    def spend(self, pixels: int) -> None:
        """Note that a picture was decoded."""
        self._left -= max(pixels, self._least)

    @property
    def exhausted(self) -> bool:
        """Whether nothing may be decoded now."""
        now = self._clock()
        self._left = min(self._per_s, self._left + (now - self._left_s) * self._per_s)
        self._left_s = now
        self._paused = self._left < (0.5 * self._per_s if self._paused else 0)
        return self._paused


class VideoInlet(Inlet):
    """Decodes in the receiver's thread.

    Args:
        deliver: Called in that thread with each picture and the time its last packet came.
        refuse: Called in that thread, once, if a picture is larger than allowed; then it stops.
        max_pixels: What is allowed.
        clock: Seconds that only grow.

    Attributes:
        ask: Set to have the receiver ask for a keyframe; aiortc clears it.
        decoded: Pictures so far.
        dropped: Encoded frames that were not decoded, by cause.
    """

    def __init__(
        self,
        deliver: Callable[[av.VideoFrame, float], None],
        refuse: Callable[[str], None],
        max_pixels: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.ask = threading.Event()
        self.decoded = 0
        self.dropped: Counter[str] = Counter()
        self._deliver = deliver
        self._refuse = refuse
        self._max_pixels = max_pixels
        self._allowance = Allowance(max_pixels, clock)
        self._decoder: av.VideoCodecContext | None = None
        self._codec = ""
        self._waiting = True  # for a keyframe; what comes before it cannot be shown
        self._asked_s = 0.0
        self._clock = _Unwrapped()

    def _overflow(self, count: int) -> None:
        self.dropped["decoder busy"] += count
        self._waiting = True
        self._ask_keyframe()

    def _ask_keyframe(self) -> None:
        now = time.monotonic()
        if now - self._asked_s > _ASK_KEYFRAME_S:
            self._asked_s = now
            self.ask.set()

    def _take(self, codec: str, frame: IncomingFrame) -> None:
        pts = self._clock.map(frame.timestamp)
        self._waiting |= frame.after_loss or codec != self._codec
        if self._allowance.exhausted:
            self.dropped["too many pixels"] += 1
            self._waiting = True
            return
        if self._waiting:
            if not is_keyframe(codec, frame.data):
                self.dropped["no keyframe"] += 1
                self._ask_keyframe()
                return
            self._waiting = False
        if codec == "VP8" and not self._check_vp8(frame.data):
            return
        packet = av.Packet(frame.data)
        packet.pts, packet.time_base = pts, VIDEO_TIME_BASE
        try:
            pictures = self._decoder_for(codec).decode(packet)
        except av.error.FFmpegError:
            self.dropped["damaged"] += 1
            self._waiting = True
            self._ask_keyframe()
            return
        for picture in pictures:
            if picture.width * picture.height > self._max_pixels:
                self._refuse_size(picture.width, picture.height)
                return
            picture.time_base = VIDEO_TIME_BASE
            self.decoded += 1
            self._allowance.spend(picture.width * picture.height)
            self._deliver(picture, frame.arrived_s)

    def _decoder_for(self, codec: str) -> av.VideoCodecContext:
        if self._decoder is None or codec != self._codec:
            self._codec = codec
            name = {"VP8": "libvpx", "H264": "h264"}[codec]
            decoder = av.CodecContext.create(name, "r")
            assert isinstance(decoder, av.VideoCodecContext)
            decoder.thread_count = 1  # further threads would hold frames back, or sit idle
            # A picture above our limit is to be named with its size, so FFmpeg's own is wider; it
            # keeps a forged header from taking memory.
            decoder.options = {"max_pixels": str(4 * self._max_pixels)}
            decoder.flags |= av.codec.context.Flags.low_delay
            self._decoder = decoder
        return self._decoder

    def _check_vp8(self, data: bytes) -> bool:
        # RFC 6386, 9.1: a keyframe has its size after the start code.
        if data[0] & 1 or len(data) < 10:
            return True
        width = int.from_bytes(data[6:8], "little") & 0x3FFF
        height = int.from_bytes(data[8:10], "little") & 0x3FFF
        if width * height > self._max_pixels:
            self._refuse_size(width, height)
            return False
        return True

    def _refuse_size(self, width: int, height: int) -> None:
        self.stop()
        self._refuse(f"pictures of {width}x{height} are over {self._max_pixels} pixels")


class AudioInlet(Inlet):
    """Hands encoded sound on as it came.

    Args:
        deliver: Called on the event loop with each packet's bytes and its time stamp, in units of
            1/48000 s from 0.
    """

    def __init__(self, deliver: Callable[[bytes, int], None]) -> None:
        super().__init__()
        self._deliver = deliver
        self._clock = _Unwrapped()

    def put(self, task: tuple[Any, IncomingFrame] | None) -> None:
        """Hand a packet on at once: there is nothing to do in the thread."""
        if task is None:
            self.stop()
            return
        _, first = task
        for frame in (first, *first.following):
            self._deliver(frame.data, self._clock.map(frame.timestamp))
        first.following = []

    def _take(self, codec: str, frame: IncomingFrame) -> None:
        raise AssertionError("nothing is queued")


def is_keyframe(codec: str, data: bytes) -> bool:
    """Whether decoding can begin with this frame."""
    if codec == "VP8":
        return bool(data) and not data[0] & 1
    start = data.find(b"\x00\x00\x01")
    while start >= 0 and start + 3 < len(data):
        if data[start + 3] & 0x1F in (5, 7):  # an IDR picture, or the parameters before one
            return True
        start = data.find(b"\x00\x00\x01", start + 3)
    return False
