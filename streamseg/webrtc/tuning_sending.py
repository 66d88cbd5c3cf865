"""The sending side of aiortc: with our own encoders, and sound that is passed through."""

from __future__ import annotations

import logging
import time
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from aiortc.codecs.base import Encoder
from aiortc.mediastreams import MediaStreamError, convert_timebase
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import RTP_HISTORY_SIZE, RtcpRtpfbPacket

from streamseg.webrtc.tuning_encoding import make_encoder
from streamseg.webrtc.tuning_private import private_name, replace_private

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    import av
    from aiortc.rtcdtlstransport import RTCDtlsTransport
    from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpSendParameters
    from aiortc.rtcrtpsender import RTCEncodedFrame
    from aiortc.rtp import AnyRtcpPacket, RtpPacket

    from streamseg.webrtc.tuning_encoding import H264Video, Rates, Vp8Video

__all__ = ["AudioPass", "Repeats", "TunedSender"]

_log = logging.getLogger(__name__)

_AUDIO_TIME_BASE = Fraction(1, 48_000)
_FAILURES = 30  # pictures in a row that cannot be encoded: a second of them
_AGAIN_S = 0.02  # receivers ask again after a round trip, libwebrtc no sooner than this
_AT_ONCE = 200_000  # bytes: all packets that aiortc keeps, once
_SHARE = 0.5  # of what is sent may be sent again: enough where a third is lost
_OVERHEAD = 32  # bytes of a packet besides its payload: headers, the code that protects it

_HISTORY = private_name(RTCRtpSender, "rtp_history")
_OCTETS = private_name(RTCRtpSender, "octet_count")
_TASKS = tuple(private_name(RTCRtpSender, name) for name in ("rtp_task", "rtcp_task"))


class AudioPass(Encoder):
    """Sends encoded sound as it is."""

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Not for samples: they would have to be encoded."""
        raise NotImplementedError("sound is passed through as packets")

    def pack(self, packet: av.Packet[Any]) -> tuple[list[bytes], int]:
        """Return the packet's bytes, and its time stamp in units of 1/48000 s."""
        assert packet.pts is not None
        return [bytes(packet)], convert_timebase(packet.pts, packet.time_base, _AUDIO_TIME_BASE)


class Repeats:
    """Says which packets are sent again: one not too soon after the last time, all not too much.

    A datagram of RTCP can ask for five thousand packets (RFC 4585, 6.2.1). Whoever asks for what was
    not lost gets half as much again as there was to send, and no more.

    Args:
        clock: Seconds that only grow.

    Attributes:
        refused: How many were asked for and not sent, or are not kept any more.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.refused = 0
        self._clock = clock
        self._left = float(_AT_ONCE)
        self._sent = 0
        # Number and time of the last repetition; bounded by what aiortc keeps.
        self._last: dict[int, tuple[int, float]] = {}

    def allow(self, number: int, size: int, sent: int) -> bool:
        """Note that a packet is asked for; return whether it is to be sent.

        Args:
            number: Its sequence number.
            size: Its bytes.
            sent: Bytes that were sent for the first time, so far.
        """
        now, place = self._clock(), number % RTP_HISTORY_SIZE
        self._left = min(_AT_ONCE, self._left + _SHARE * (sent - self._sent))
        self._sent = sent
        last_number, last_s = self._last.get(place, (number, -1e9))
        if (last_number == number and now - last_s < _AGAIN_S) or size > self._left:
            self.refused += 1
            return False
        self._left -= size
        self._last[place] = number, now
        return True


class TunedSender(RTCRtpSender):
    """A sender with our own encoders.

    Attributes:
        video: The encoder, once video is being sent.
        repeats: What bounds the packets that are sent again.
        on_start: Called with the encoder when sending begins.
        on_failure: Called when it is given up, with what the encoder fails with.
    """

    def __init__(self, kind: str, transport: RTCDtlsTransport, rates: Rates) -> None:
        super().__init__(kind, transport)
        self.video: H264Video | Vp8Video | None = None
        self.repeats = Repeats()
        self.on_start: Callable[[H264Video | Vp8Video], None] | None = None
        self.on_failure: Callable[[Exception], None] | None = None
        self._rates = rates
        self._failures = 0  # in a row

    @property
    def _history(self) -> dict[int, RtpPacket]:
        history: dict[int, RtpPacket] = getattr(self, _HISTORY)
        return history

    @property
    def tasks(self) -> list[asyncio.Future[None]]:
        """What aiortc has running for it."""
        return [task for name in _TASKS if (task := getattr(self, name)) is not None]

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        """Start sending with the codec that was agreed on."""
        encoder: Encoder
        if self.kind == "audio":
            encoder = AudioPass()
        elif self.video is not None:
            encoder = self.video
        else:
            encoder = self.video = make_encoder(parameters.codecs[0].name, self._rates)
            if self.on_start is not None:
                self.on_start(self.video)
        replace_private(self, RTCRtpSender, "encoder", encoder)
        await super().send(parameters)

    # What follows is called by aiortc, by these names.

    def _send_keyframe(self) -> None:
        super()._send_keyframe()
        if self.video is not None and self.video.on_keyframe is not None:
            self.video.on_keyframe()

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpRtpfbPacket):
            kept = {each.sequence_number for each in self._history.values()}
            # In their order, and each once: those that were sent first are needed first.
            asked = packet.lost
            packet.lost = [number for number in dict.fromkeys(asked) if number in kept]
            self.repeats.refused += len(asked) - len(packet.lost)
        await super()._handle_rtcp_packet(packet)

    async def _retransmit(self, sequence_number: int) -> None:
        packet = self._history[sequence_number % RTP_HISTORY_SIZE]
        size = len(packet.payload) + _OVERHEAD
        if self.repeats.allow(sequence_number, size, getattr(self, _OCTETS)):
            await super()._retransmit(sequence_number)

    async def _next_encoded_frame(self, codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        # With any other error aiortc would end its task, and the connection would stand and be still.
        try:
            encoded = await super()._next_encoded_frame(codec)
        except (MediaStreamError, ConnectionError):
            raise
        except Exception as exc:  # of FFmpeg, of any kind; the next picture may do
            self._note_failure(exc)
            if self._failures < _FAILURES:
                return None
            if self.on_failure is not None:
                self.on_failure(exc)
            raise MediaStreamError from exc
        self._failures = 0
        return encoded

    def _note_failure(self, exc: Exception) -> None:
        if not self._failures:
            _log.error("what is to be sent cannot be encoded: %s", type(exc).__name__)
            _log.debug("it failed here:", exc_info=exc)
        self._failures += 1
        if self.video is not None:
            self.video.failed += 1
            self.video.reset()
