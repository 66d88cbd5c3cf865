"""PeerStatistics: what a connection is doing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PeerStatistics"]


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """What a connection did so far; rates are of the last second or so.

    Attributes:
        rtt_ms: Round-trip time in milliseconds, None before the other side reported.
        bitrate_in: Received, bits per second, all media and overhead together.
        bitrate_out: Sent, bits per second.
        packets_lost: Of the incoming media, as RTCP counts them.
        packets_recovered: Incoming packets that filled a gap: they were sent again, or came out of
            order.
        frames_decoded: Pictures that were decoded.
        frames_encoded: Pictures that were encoded.
        encode_ms: What the last pictures took to encode, milliseconds each, smoothed; None before.
        size: Width and height of the newest picture, received or else sent; None before the first.
        codec: ``H264`` or ``VP8``; None before the connection is negotiated.
    """

    rtt_ms: float | None = None
    bitrate_in: int = 0
    bitrate_out: int = 0
    packets_lost: int = 0
    packets_recovered: int = 0
    frames_decoded: int = 0
    frames_encoded: int = 0
    encode_ms: float | None = None
    size: tuple[int, int] | None = None
    codec: str | None = None
