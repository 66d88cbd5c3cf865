"""Intake: what a grabber's pictures go through before a live source hands them out.

Placed on the source's one time line, turned upright, fitted to the first picture's size and format,
numbered, counted. The packets of sound go the same way beside them.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import av
import av.error

from streamseg.errors import SourceReadError
from streamseg.frames import Colour, Frame
from streamseg.sources.live_time import TIME_BASE, LiveTimeline
from streamseg.sources.side_packets import SidePackets
from streamseg.sources.upright import Upright

if TYPE_CHECKING:
    from streamseg.frames import StreamInfo
    from streamseg.sources.newest import Newest

__all__ = ["Intake"]

_MAX_EVENTS = 20  # a line for each of the latest reconnects is enough


class Intake:
    """All connections of a source lead here, one at a time.

    Args:
        name: For messages.
        frames: Where the frames go.

    Attributes:
        lock: Held while a connection is here; who holds it may say that this connection is over.
        info: What is known of the frames, once there is one.
        reconnects: How many connections after the first had a picture; counted before that goes out.
        gap_s: How long there was no picture before the last of them, in seconds.
        dropped: Frames that were dropped, by cause.
        packets: The side packets.
    """

    def __init__(self, name: str, frames: Newest[Frame]) -> None:
        self.lock = threading.Lock()
        self.info: StreamInfo | None = None
        self.reconnects = 0
        self.gap_s = 0.0
        self.dropped: Counter[str] = Counter(superseded=0, undecodable=0, closed=0)
        self.packets = SidePackets()
        self._name = name
        self._frames = frames
        self._timeline = LiveTimeline()
        self._upright = Upright()
        self._last_s = 0.0
        self._broke_s: float | None = None
        self._events: deque[str] = deque(maxlen=_MAX_EVENTS)
        self._count = 0
        # Number and time of the pictures in `Upright`: one, or two where it deinterlaces.
        self._inside: deque[tuple[int, float]] = deque()
        self._stated: StreamInfo | None = None

    @property
    def notices(self) -> list[str]:
        """What the user should know, a line each; of the reconnects, the latest."""
        notices = [*self._upright.notices, *self.packets.notices]
        jumps, undecodable = self._timeline.jumps, self.dropped["undecodable"]
        if jumps:
            notices.append(f"the stream's clock jumped {_times(jumps)}: the pts go on without it")
        if undecodable:
            notices.append(f"damaged pictures that could not be decoded: {undecodable}")
        if self.packets.dropped:
            notices.append(f"packets of sound that were left out: {self.packets.dropped}")
        return [*notices, *self._events.copy()]

    def connect(self, info: StreamInfo) -> None:
        """Begin a connection."""
        self._stated = info
        if self.info is not None:
            self._broke_s = self._last_s
        self.packets.connect(info.side_streams)

    def take(
        self, video: av.VideoFrame, captured_s: float, packets: Sequence[Any], lost: int
    ) -> bool:
        """Take the connection's next picture; return whether one went out.

        Args:
            video: The picture, with the device's time stamp or none.
            captured_s: When it came, in seconds of ``time.monotonic``.
            packets: Side packets that came up to now.
            lost: Pictures before it that could not be decoded.

        Raises:
            SourceReadError: If it cannot be turned or fitted.
        """
        self._lose(lost)
        self.packets.add(packets)
        time = None
        if video.pts is not None and video.time_base:
            time = video.pts * video.time_base
        video.pts = self._timeline.place(time, captured_s)
        video.time_base = TIME_BASE
        self.packets.place(self._timeline)
        self._last_s = captured_s
        self._inside.append((self._count, captured_s))
        self._count += 1
        try:
            ready = self._upright.push(video)
        except (av.error.FFmpegError, ValueError) as error:
            self._clear()
            reason = getattr(error, "strerror", None) or error
            raise SourceReadError(
                f"{self._name}: a picture of {video.width}x{video.height} {video.format.name} "
                f"cannot be fitted to the first one: {reason}"
            ) from error
        if ready and self._broke_s is not None:
            self._resume(captured_s - self._broke_s)
        return self._hand_out(ready)

    def _resume(self, gap_s: float) -> None:
        self._broke_s = None
        self.gap_s = gap_s
        self.reconnects += 1
        self._events.append(f"the connection broke and was made again: the gap was {gap_s:.1f} s")

    def finish(self, packets: Sequence[Any], lost: int) -> None:
        """Take what came after the last picture of a stream that ended."""
        self._lose(lost)
        self.packets.add(packets)
        self.packets.place(self._timeline)

    def disconnect(self) -> None:
        """End a connection: hand out what is held back."""
        try:
            self._hand_out(self._upright.flush())
        except (av.error.FFmpegError, ValueError):
            pass  # counted below
        self._clear()
        self._timeline.disconnect()

    def close(self) -> None:
        """Let go of the packets; when no connection comes here any more."""
        self.packets.close()

    def _lose(self, count: int) -> None:
        self._count += count
        self.dropped["undecodable"] += count

    def _clear(self) -> None:
        self.dropped["undecodable"] += len(self._inside)
        self._inside.clear()

    def _hand_out(self, ready: Sequence[av.VideoFrame]) -> bool:
        for video in ready:
            index, captured_s = self._inside.popleft()
            if self.info is None:
                self.info = self._describe(video)
            cause = "closed" if self._frames.closed else "superseded"
            self.dropped[cause] += self._frames.put(Frame(video, index, captured_s))
        return bool(ready)

    def _describe(self, first: av.VideoFrame) -> StreamInfo:
        stated = self._stated
        assert stated is not None
        width, height = self._upright.size
        ratio = stated.sample_aspect_ratio
        own, colour = Colour.of(first), stated.colour
        return replace(
            stated,
            name=self._name,
            width=width,
            height=height,
            pixel_format=self._upright.pixel_format,
            time_base=TIME_BASE,
            live=True,
            sample_aspect_ratio=1 / ratio if self._upright.swapped else ratio,
            colour=Colour(
                space=colour.space if own.space == 2 else own.space,
                range=own.range or colour.range,
                primaries=colour.primaries if own.primaries == 2 else own.primaries,
                transfer=colour.transfer if own.transfer == 2 else own.transfer,
            ),
            side_streams=tuple(self.packets.streams),
            # It has been done; a tag that asks for it again must not go on.
            video_metadata={k: v for k, v in stated.video_metadata.items() if k != "rotate"},
        )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
