"""What recordings and streams share: packets that wait for their pictures, and encoder settings.

Audio comes straight from the source while its picture waits for the model. So side packets are held
until a picture of their time or a later one is there; then they are written in time, and a cut or a
new connection knows on which side of it they belong.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from av.packet import Packet

    from streamseg.frames import Frame
    from streamseg.sinks.encoder import EncoderChoice

__all__ = [
    "KEY_INTERVAL_S",
    "PacketGate",
    "frame_time",
    "packet_time",
    "tune_for_recording",
    "tune_for_streaming",
]

KEY_INTERVAL_S = Fraction(2)  # whoever joins a stream, or seeks, waits or decodes no longer
_THREADS = "2"  # x264 then stays under a core at 720p30; more only make the picture later
_LOOKAHEAD = 5  # pictures


def frame_time(frame: Frame) -> Fraction:
    """Return a frame's presentation time in seconds; 0 where it has none."""
    return Fraction(0) if frame.pts is None else frame.pts * frame.time_base


def packet_time(packet: Packet[Any]) -> Fraction | None:
    """Return a packet's presentation time in seconds, None where it has none."""
    ticks = packet.pts if packet.pts is not None else packet.dts
    return None if ticks is None or not packet.time_base else ticks * packet.time_base


class PacketGate:
    """Holds side packets until the pictures of their time are there.

    Args:
        limit_s: How far the packets may be ahead of the pictures, in seconds; what has waited
            longer than that is let through, so that sound goes on when the picture stands still.
    """

    def __init__(self, limit_s: Fraction) -> None:
        self._limit = limit_s
        self._waiting: deque[tuple[Fraction, Packet[Any]]] = deque()  # at most limit_s of a stream
        self._newest: Fraction | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, packets: Iterable[Packet[Any]]) -> None:
        """Take packets in their order; those without a time or without content are let go."""
        for packet in packets:
            time = packet_time(packet)
            if time is None or not packet.size:
                continue
            self._waiting.append((time, packet))
            self._newest = time if self._newest is None else max(self._newest, time)

    def take(self, until: Fraction) -> Iterator[tuple[Fraction, Packet[Any]]]:
        """Yield, with their times, the packets up to this time, and those that waited too long.

        Args:
            until: Time of the newest picture, in seconds.
        """
        if self._newest is None:
            return
        until = max(until, self._newest - self._limit)
        for _ in range(len(self._waiting)):
            time, packet = self._waiting.popleft()
            if time <= until:
                yield time, packet
            else:
                self._waiting.append((time, packet))

    def drop_before(self, start: Fraction) -> None:
        """Let go of the packets of an earlier time."""
        self._waiting = deque(item for item in self._waiting if item[0] >= start)

    def drop_overdue(self) -> None:
        """Let go of the packets that waited too long for a first picture."""
        if self._newest is not None:
            self.drop_before(self._newest - self._limit)

    def clear(self) -> None:
        """Let go of all."""
        self._waiting.clear()
        self._newest = None


def tune_for_recording(choice: EncoderChoice, rate: Fraction) -> None:
    """Set options for an encoder that has to keep up and must not hold back many pictures.

    x264 with ``veryfast``, looking 5 pictures ahead, two B-frames. ``zerolatency`` would need
    twice the bits for the same picture (measured at 720p: docs/decisions/0005-recordings.md).
    What the encoder holds back is lost when the process is killed; here that is 7 pictures.
    """
    options, name = choice.options, choice.name
    options["g"] = str(max(1, round(rate * KEY_INTERVAL_S)))
    if name == "libx264":
        options["threads"] = _THREADS
        options["forced-idr"] = "1"
        options["x264-params"] = "sync-lookahead=0"
        if options.get("preset") not in {"ultrafast", "superfast", "0", "1"}:
            options["rc-lookahead"] = str(_LOOKAHEAD)
            options.setdefault("bf", "2")
    elif name == "libx265":
        options["threads"] = _THREADS
        options["forced-idr"] = "1"
        options["x265-params"] += f":rc-lookahead={_LOOKAHEAD}:bframes=2:frame-threads=1"
    elif name in {"libvpx", "libvpx-vp9"}:
        options["threads"] = _THREADS
        options["lag-in-frames"] = "0"
    elif name.endswith("_nvenc"):
        options["forced-idr"] = "1"
        options["delay"] = "0"


def tune_for_streaming(choice: EncoderChoice, rate: Fraction, *, bitrate: int) -> None:
    """Set options for an encoder whose pictures must arrive at once, at a rate that fits a line.

    Args:
        choice: The encoder.
        rate: Frames per second, about.
        bitrate: Bits per second, also at most, over a second.
    """
    options, name = choice.options, choice.name
    options.pop("crf", None)
    options["g"] = str(max(1, round(rate * KEY_INTERVAL_S)))
    options["b"] = options["maxrate"] = options["bufsize"] = str(bitrate)
    options["bf"] = "0"
    if name == "libx264":
        options["threads"] = _THREADS
        options["tune"] = "zerolatency"
        options["forced-idr"] = "1"
        # Whoever joins later finds the headers before each keyframe; threads by picture would
        # hold one picture back.
        options["x264-params"] = "repeat-headers=1:sliced-threads=1"
    elif name == "libx265":
        options["threads"] = _THREADS
        options["tune"] = "zerolatency"
        options["forced-idr"] = "1"
        options["x265-params"] += ":repeat-headers=1"
    elif name.endswith("_nvenc"):
        options["forced-idr"] = "1"
        options["zerolatency"] = "1"
        options["delay"] = "0"
