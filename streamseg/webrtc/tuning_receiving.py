"""The receiving side of aiortc: with our own packet buffer and decoding, and bounds."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from aiortc.rtcdtlstransport import RtpRouter
from aiortc.rtcrtpreceiver import RTCRtpReceiver

from streamseg.webrtc.tuning_decoding import VideoInlet
from streamseg.webrtc.tuning_packets import PacketBuffer, RepeatedNack
from streamseg.webrtc.tuning_private import private_name, replace_private

if TYPE_CHECKING:
    import threading

    from aiortc.rtcdtlstransport import RTCDtlsTransport, RtpReceiver
    from aiortc.rtp import RtpPacket

    from streamseg.webrtc.tuning_decoding import Inlet

__all__ = ["BoundedRouter", "TunedReceiver"]

_log = logging.getLogger(__name__)

_VIDEO_PATIENCE_S = 0.3  # a lost packet asked for twice, over half the world
_AUDIO_PATIENCE_S = 0.06
_STREAMS = 8  # of one transport: video, sound, what is sent again of both, and as many changes
_TASK = private_name(RTCRtpReceiver, "rtcp_task")


class BoundedRouter(RtpRouter):
    """Takes few streams (SSRC) over a transport; aiortc keeps something for each that ever came.

    Attributes:
        refused: Packets of further ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    def route_rtp(self, packet: RtpPacket) -> RtpReceiver | None:
        """Return whose packet it is, None if it is nobody's."""
        if packet.ssrc not in self.ssrc_table and len(self.ssrc_table) >= _STREAMS:
            self.refused += 1
            return None
        return super().route_rtp(packet)


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
