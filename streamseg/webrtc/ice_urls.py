"""The URLs of STUN and TURN servers (RFC 7064, RFC 7065)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from streamseg.errors import ConfigError

__all__ = ["IceUrl", "parse_ice_url"]

_URL = re.compile(
    r"(?P<scheme>stuns?|turns?):(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
    r"(?::(?P<port>\d{1,5}))?(?:\?transport=(?P<transport>udp|tcp))?"
)
_PORT, _TLS_PORT = 3478, 5349


@dataclass(frozen=True, slots=True)
class IceUrl:
    """Where a STUN or TURN server is, and how it is spoken to.

    Attributes:
        scheme: ``stun``, ``stuns``, ``turn`` or ``turns``; the ``s`` is for TLS.
        host: Name or address, an IPv6 one without its brackets.
        port: 3478, or 5349 with TLS, if the URL says none.
        transport: From here to the server.
    """

    scheme: Literal["stun", "stuns", "turn", "turns"]
    host: str
    port: int
    transport: Literal["udp", "tcp"]

    @property
    def relays(self) -> bool:
        """Whether it is a TURN server."""
        return self.scheme.startswith("turn")

    @property
    def tls(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.scheme.endswith("s")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        suffix = f"?transport={self.transport}" if self.relays else ""
        return f"{self.scheme}:{host}:{self.port}{suffix}"


def parse_ice_url(url: str) -> IceUrl:
    """Return what a URL says.

    Raises:
        ConfigError: If it is none of a STUN or TURN server.
    """
    match = _URL.fullmatch(url)
    port = 0 if match is None else int(match["port"] or 1)
    if match is None or not 0 < port < 65_536 or ("stun" in match["scheme"] and match["transport"]):
        # What stands in the wrong place could be a password.
        raise ConfigError(
            "an ICE server's URL is none: expected stun:host:port or "
            "turn:host:port?transport=udp; user name and credential are keys of their own"
        )
    scheme = cast("Literal['stun', 'stuns', 'turn', 'turns']", match["scheme"])
    tls = scheme.endswith("s")
    return IceUrl(
        scheme=scheme,
        host=match["host"].strip("[]"),
        port=int(match["port"]) if match["port"] else (_TLS_PORT if tls else _PORT),
        transport=cast("Literal['udp', 'tcp']", match["transport"] or ("tcp" if tls else "udp")),
    )
