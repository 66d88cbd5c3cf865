"""The sending side of aiortc: with our own encoders, and sound that is passed through."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from aiortc.codecs.base import Encoder
from aiortc.mediastreams import convert_timebase
from aiortc.rtcrtpsender import RTCRtpSender

from streamseg.webrtc.tuning_encoding import make_encoder
from streamseg.webrtc.tuning_private import replace_private

if TYPE_CHECKING:
    from collections.abc import Callable

    import av
    from aiortc.rtcdtlstransport import RTCDtlsTransport
    from aiortc.rtcrtpparameters import RTCRtpSendParameters

    from streamseg.webrtc.tuning_encoding import H264Video, Rates, Vp8Video

__all__ = ["AudioPass", "TunedSender"]

_AUDIO_TIME_BASE = Fraction(1, 48_000)


class AudioPass(Encoder):
    """Sends encoded sound as it is."""

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Not for samples: they would have to be encoded."""
        raise NotImplementedError("sound is passed through as packets")

    def pack(self, packet: av.Packet[Any]) -> tuple[list[bytes], int]:
        """Return the packet's bytes, and its time stamp in units of 1/48000 s."""
        assert packet.pts is not None
        return [bytes(packet)], convert_timebase(packet.pts, packet.time_base, _AUDIO_TIME_BASE)


class TunedSender(RTCRtpSender):
    """A sender with our own encoders.

    Attributes:
        video: The encoder, once video is being sent.
        on_start: Called with it when sending begins.
    """

    def __init__(self, kind: str, transport: RTCDtlsTransport, rates: Rates) -> None:
        super().__init__(kind, transport)
        self.video: H264Video | Vp8Video | None = None
        self.on_start: Callable[[H264Video | Vp8Video], None] | None = None
        self._rates = rates

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

    # aiortc calls this when the receiver has lost a picture.
    def _send_keyframe(self) -> None:
        super()._send_keyframe()
        if self.video is not None and self.video.on_keyframe is not None:
            self.video.on_keyframe()
