"""PeerOptions: how one connection is made and what it may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from streamseg.errors import ConfigError
from streamseg.webrtc.ice_urls import IceUrl, parse_ice_url

__all__ = ["IceServer", "PeerOptions"]


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server.

    Attributes:
        urls: ``stun:host:port``, ``turn:host:port?transport=udp``; one server, several ways to it.
        username: For TURN.
        credential: For TURN; not shown in the repr.

    Raises:
        ConfigError: If a URL is none or ``stuns:``, or one of TURN comes without user name or
            credential.
    """

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if any(url.relays for url in self.parsed) and not (self.username and self.credential):
            raise ConfigError("a TURN server needs username and credential: give both")
        if any(url.tls and not url.relays for url in self.parsed):
            raise ConfigError(
                "an ICE server is stuns:, which is not spoken here: write stun: or turns:"
            )

    @property
    def parsed(self) -> tuple[IceUrl, ...]:
        """What the URLs say."""
        return tuple(parse_ice_url(url) for url in self.urls)


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """How one connection is made and what it may take.

    Attributes:
        ice_servers: STUN and TURN servers; none means that only the machine's own addresses are
            offered.
        handshake_timeout_s: How long a connection may take until it stands, in seconds.
        media_timeout_s: How long an incoming connection may stay without media, in seconds.
        bitrate: What an encoder starts with, and what the other side is told to start with; bits/s.
        min_bitrate: Not less than this, however little the receiver says it can take; bits/s.
        max_bitrate: Not more than this; bits/s.
        prefer: The codec to answer with where the other side has both.
        max_pixels: Larger incoming pictures are refused and the connection is closed.
    """

    ice_servers: tuple[IceServer, ...] = ()
    handshake_timeout_s: float = 10.0
    media_timeout_s: float = 5.0
    bitrate: int = 2_500_000
    min_bitrate: int = 250_000
    max_bitrate: int = 6_000_000
    prefer: Literal["H264", "VP8"] = "H264"
    max_pixels: int = 1920 * 1088

    def __post_init__(self) -> None:
        if self.prefer not in ("H264", "VP8"):
            raise ConfigError(f"prefer is {self.prefer!r}, expected H264 or VP8")
        if not 0 < self.min_bitrate <= self.bitrate <= self.max_bitrate:
            raise ConfigError(
                f"bitrates are {self.min_bitrate}, {self.bitrate} and {self.max_bitrate}, expected "
                "min_bitrate <= bitrate <= max_bitrate, all above 0"
            )
        if not self.handshake_timeout_s > 0 or not self.media_timeout_s > 0:
            raise ConfigError(
                f"time-outs are {self.handshake_timeout_s} and {self.media_timeout_s} s, "
                "expected more than 0"
            )
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels is {self.max_pixels}, expected at least 1")
