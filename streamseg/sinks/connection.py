"""Connection: one encoder and one relay, from the first picture of a connection to its end.

A new connection has a new encoder: so it begins with a keyframe at 0, and nothing of the old one is
missing in it.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av

from streamseg.frames import Frame
from streamseg.sinks.live_muxing import KEY_INTERVAL_S, PacketGate, frame_time
from streamseg.sinks.relay import Relay, State
from streamseg.sinks.timing import Clock
from streamseg.sinks.video_track import VideoTrack

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence

    from av.packet import Packet

    from streamseg.frames import StreamInfo
    from streamseg.sinks.remux import SideStreams
    from streamseg.sinks.stream_target import StreamTarget
    from streamseg.sinks.video_track import Tune

__all__ = ["Connection"]

_TICK = Fraction(1, 90_000)  # of MPEG-TS and RTP; all that RTMP has is milliseconds
_AHEAD_S = Fraction(2)  # of sound before its picture; after that it goes on alone
_STALL_S = 5.0  # how long a peer may take nothing


class Connection:
    """Encodes pictures and sends them; ``poll`` it before anything else.

    Args:
        info: The stream.
        target: Where to.
        asked: What the user asked of the encoder.
        tune: Has the last word on the encoder's options.
        side: The side streams, for this connection alone.
        notices: Gets a line for everything that is not sent as it came.
        stopped: Once set, every wait ends with ``Stopped``.

    Raises:
        SinkOpenError: If it cannot be encoded as asked.

    Attributes:
        taken: Pictures that the encoder got.
        relay: What carries the packets.
    """

    def __init__(
        self,
        info: StreamInfo,
        target: StreamTarget,
        asked: Mapping[str, Any],
        tune: Tune,
        side: SideStreams,
        notices: list[str],
        stopped: threading.Event,
    ) -> None:
        self.taken = 0
        self._side = side
        self._notices = notices
        self._gate = PacketGate(_AHEAD_S)
        self._last_key: Fraction | None = None
        self._size = (info.width, info.height)
        first = _blank(info)
        lines: list[str] = []
        self._video = VideoTrack(
            info, target.container, target.shown, asked, first, lines, tune=tune
        )
        self._note(lines)
        self._video.clock = Clock(_TICK, self._video.rate)
        memory = _Memory()
        # Never muxed to: it makes the streams and tells the relay what they are.
        self._output = av.open(memory, "w", format="nut", container_options={"write_index": "0"})
        self._video.attach(self._output)
        side.attach(self._output, Fraction(0), mux=self._mux_side)
        self._output.start_encoding()
        self._output.mux_one(_placeholder(self._output.streams.video[0]))
        self._output.close()
        self.relay = Relay(target, memory.buffer.getvalue(), stopped)

    @property
    def begun(self) -> bool:
        """Whether a picture was sent."""
        return self._last_key is not None

    def write(self, frame: Frame) -> None:
        """Encode and send one picture, and the side packets up to its time.

        Raises:
            Broken: If the connection is gone.
            Stopped: If the sink was stopped.
        """
        time = frame_time(frame)
        if self._last_key is None:
            self._video.clock = Clock(_TICK, self._video.rate, shift_s=-time)
            self._side.move(-time)
            self._gate.drop_before(time)
        key = self._last_key is None or time - self._last_key >= KEY_INTERVAL_S
        if key:
            self._last_key = time
        if (frame.width, frame.height) != self._size:
            line = self._video.change(frame)
            self._note([] if line is None else [line])
        self.taken += 1
        for packet in self._video.encode(frame, key=key):
            self._mux(packet)
        for _, packet in self._gate.take(time):
            self._side.mux(packet)

    def write_packets(self, packets: Sequence[Packet[Any]]) -> None:
        """Take side packets; they wait for their pictures."""
        self._gate.put(packet for packet in packets if self._side.carries(packet))
        if not self.begun:
            self._gate.drop_overdue()

    def finish(self, timeout_s: float) -> None:
        """Send what is left and end the stream in good order.

        Raises:
            Broken: If the end did not get through.
            Stopped: If the sink was stopped.
        """
        if self.begun:
            for packet in self._video.flush():
                self._mux(packet)
            for _, packet in self._gate.take(Fraction(1 << 62)):
                self._side.mux(packet)
            self._side.flush()
        self.relay.finish(timeout_s)

    def close(self, *, grace_s: float = 0.0) -> None:
        """End it; never fails."""
        self.relay.close(grace_s=grace_s)
        self._gate.clear()
        self._side.close()

    def poll(self) -> State:
        """Return what the connection is doing; never waits."""
        return self.relay.poll()

    def _mux(self, packet: Packet[Any]) -> None:
        self.relay.mux(packet, _STALL_S)

    def _mux_side(self, packet: Packet[Any]) -> None:
        # The priming of an audio encoder lies before 0, which FLV cannot say.
        if packet.dts is None or packet.dts >= 0:
            self._mux(packet)

    def _note(self, lines: Sequence[str]) -> None:
        # Each connection says the same.
        self._notices.extend(line for line in lines if line not in self._notices)


class _Memory:
    """A file object that only grows, as PyAV wants it."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()

    def write(self, data: bytes) -> int:
        return self.buffer.write(data)


def _blank(info: StreamInfo) -> Frame:
    """A picture like those that will come: effects keep size and, mostly, format."""
    video = av.VideoFrame(info.width, info.height, info.pixel_format)
    video.pts, video.time_base = 0, info.time_base
    video.colorspace, video.color_range = info.colour.space, info.colour.range
    video.color_primaries, video.color_trc = info.colour.primaries, info.colour.transfer
    return Frame(video, 0, 0.0)


def _placeholder(stream: Any) -> Packet[Any]:
    """A packet for the header: NUT is only read as such with one."""
    packet = av.Packet(b"\0\0\0\1\x09\x10")
    packet.pts = packet.dts = 0
    packet.time_base = _TICK
    packet.is_keyframe = True
    packet.stream = stream
    return packet
