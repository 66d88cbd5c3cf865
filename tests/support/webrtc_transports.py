"""What tests of aiortc's transports share."""

from __future__ import annotations

from aiortc import RTCDtlsTransport, RTCIceGatherer, RTCIceTransport
from aiortc.rtcdtlstransport import RTCCertificate

__all__ = ["Clock", "make_transport"]


class Clock:
    """Seconds that go on when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_transport() -> RTCDtlsTransport:
    """Return a real one, which never connects."""
    ice = RTCIceTransport(RTCIceGatherer(iceServers=[]))
    return RTCDtlsTransport(ice, [RTCCertificate.generateCertificate()])
