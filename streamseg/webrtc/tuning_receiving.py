"""The receiving side of aiortc: with our own packet buffer and decoding, and bounds."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from aiortc.rtcdtlstransport import RtpRouter
from aiortc.rtcrtpreceiver import RTCRtpReceiver

from streamseg.webrtc.tuning_decoding import VideoInlet
from streamseg.webrtc.tuning_packets import PacketBuffer, RepeatedNack
from streamseg.webrtc.tuning_private import private_name, replace_private

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from aiortc.rtcdtlstransport import RTCDtlsTransport, RtpReceiver
    from aiortc.rtp import RtpPacket

    from streamseg.webrtc.tuning_decoding import Inlet

__all__ = ["BoundedRouter", "TunedReceiver"]

_log = logging.getLogger(__name__)

_VIDEO_PATIENCE_S = 0.3  # a lost packet asked for twice, over half the world
_AUDIO_PATIENCE_S = 0.06
_STREAMS = 8  # of one transport: video, sound, what is sent again of both, and as many changes
_SILENT_S = 2.0  # a stream that sends nothing for so long gives its place to a new one
_CHANGE_S = 1.0  # a place changes hands no more often
# What aiortc keeps of a stream; all of them are reported on, and a report has room for 31.
_KEPT = tuple(
    private_name(RTCRtpReceiver, name)
    for name in ("active_ssrc", "lsr", "lsr_time", "remote_streams")
)
_ESTIMATOR = private_name(RTCRtpReceiver, "remote_bitrate_estimator")
_TASK = private_name(RTCRtpReceiver, "rtcp_task")


class BoundedRouter(RtpRouter):
    """Takes few streams (SSRC) over a transport; aiortc keeps something for each that ever came.

    A further one takes the place of the one that was silent longest: senders change streams as they
    change cameras, and hardly ever say so.

    Attributes:
        refused: Packets of further ones.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.refused = 0
        self._clock = clock
        self._made_s = clock()
        self._changed_s = -1e9
        self._heard_s: dict[int, float] = {}  # bounded by the table of streams

    def route_rtp(self, packet: RtpPacket) -> RtpReceiver | None:
        """Return whose packet it is, None if it is nobody's."""
        now = self._clock()
        known = packet.ssrc in self.ssrc_table
        if (
            not known
            and len(self.ssrc_table) >= _STREAMS
            and not (packet.payload_type in self.payload_type_table and self._make_room(now))
        ):
            if not self.refused:
                _log.warning("packets of more than %d streams came: not all are taken", _STREAMS)
            self.refused += 1
            return None
        receiver = super().route_rtp(packet)
        if receiver is not None:
            self._heard_s[packet.ssrc] = now
        return receiver

    def _make_room(self, now: float) -> bool:
        """Forget the stream that was silent longest, if any was silent for long enough."""
        if now - self._changed_s < _CHANGE_S:
            return False
        # One that was announced and never came is silent from the beginning.
        heard_s = {ssrc: self._heard_s.get(ssrc, self._made_s) for ssrc in self.ssrc_table}
        silent = min(heard_s, key=lambda ssrc: heard_s[ssrc])
        if now - heard_s[silent] <= _SILENT_S:
            return False
        self._changed_s = now
        self._heard_s.pop(silent, None)
        receiver = self.ssrc_table.pop(silent)
        if isinstance(receiver, TunedReceiver):
            receiver.forget(silent)
        return True


class _AsItIs:
    """Takes the place of aiortc's mapping of time stamps, which a step back throws off by 13 h."""

    def map(self, timestamp: int) -> int:
        return timestamp


class TunedReceiver(RTCRtpReceiver):
    """A receiver with our own packet buffer and decoding.

    Attributes:
        inlet: Where its encoded frames go.
        packets: The buffer; knows when the last packet came.
    """

    def __init__(self, kind: str, transport: RTCDtlsTransport, inlet: Inlet) -> None:
        super().__init__(kind, transport)
        self.inlet = inlet
        if isinstance(inlet, VideoInlet):
            nack = RepeatedNack()
            self.packets = PacketBuffer(patience_s=_VIDEO_PATIENCE_S, skipped=nack.forget)
            replace_private(self, RTCRtpReceiver, "nack_generator", nack)
            replace_private(self, RTCRtpReceiver, "decoder_error", inlet.ask)
        else:
            self.packets = PacketBuffer(patience_s=_AUDIO_PATIENCE_S, each=True)
        replace_private(self, RTCRtpReceiver, "jitter_buffer", self.packets)
        replace_private(self, RTCRtpReceiver, "decoder_queue", inlet)
        replace_private(self, RTCRtpReceiver, "timestamp_mapper", _AsItIs())

    @property
    def tasks(self) -> list[asyncio.Future[None]]:
        """What aiortc has running for it, apart from the thread."""
        task = getattr(self, _TASK)
        return [] if task is None else [task]

    def forget(self, ssrc: int) -> None:
        """Forget what is kept of a stream; it is reported on no more."""
        for name in _KEPT:
            getattr(self, name).pop(ssrc, None)
        estimator: Any = getattr(self, _ESTIMATOR)
        if estimator is not None:
            estimator.ssrcs.pop(ssrc, None)

    async def halt(self, timeout_s: float) -> None:
        """End the decoder's thread and wait for it, but not for ever."""
        self.inlet.stop()
        thread: threading.Thread | None = getattr(
            self, private_name(RTCRtpReceiver, "decoder_thread")
        )
        if thread is None:
            return
        until_s = time.monotonic() + timeout_s
        # The thread has no way to set an event of the loop's after its last word.
        while thread.is_alive() and time.monotonic() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    # aiortc calls these by their names from inside.

    async def _run_rtcp(self) -> None:
        while True:
            try:
                return await super()._run_rtcp()
            except Exception:
                # A report that cannot be written, such as of time stamps that leap to and fro:
                # aiortc would stop reporting, and its `stop` would wait for that for ever.
                _log.debug("a report could not be made", exc_info=True)

    def _RTCRtpReceiver__stop_decoder(self) -> None:
        # aiortc's own would wait here for the thread, on the loop.
        self.inlet.stop()
