"""ServerOptions: where the server listens, whom it lets in, and how much of everything."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from streamseg.errors import ConfigError
from streamseg.webrtc.peer_options import PeerOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ServerOptions", "is_loopback"]


def is_loopback(host: str) -> bool:
    """Return whether a host that is listened on can only be reached from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where the server listens, whom it lets in, and how much of everything.

    Attributes:
        host: Address to listen on. Any but a loopback one needs a certificate, or a proxy that has
            one: browsers give no camera to a page without.
        port: TCP port; 0 takes a free one.
        tls_cert: Certificate chain, PEM.
        tls_key: Its private key, PEM.
        behind_proxy: Whether a reverse proxy ends TLS in front of it. The last address of
            ``X-Forwarded-For`` is then who asks; without a proxy anybody could write one.
        tokens: Bearer tokens of which a request must have one; none lets everybody in.
        origins: Pages of other origins that may use the server, ``https://example.org``.
        max_sessions: Calls and publishers at once, each with a pipeline of its own.
        max_viewers: Viewers of one room at once.
        max_viewers_in_all: Viewers of all rooms at once.
        max_pending_per_address: Connections of one address that are not standing yet.
        offers_per_minute: Offers and uploads that one address may make; half of it at once.
        max_connections: TCP connections at once, TLS handshakes included.
        max_connections_per_address: Likewise of one address; not counted behind a proxy.
        header_timeout_s: How long a connection may stay without a whole request, in seconds.
        body_timeout_s: How long a request's body may take, in seconds.
        write_timeout_s: How long a client may read nothing of what it is sent, in seconds.
        max_uploads: Background pictures that are kept for all together.
        max_uploads_per_address: Likewise for one address; a newer one replaces the oldest.
        may_bypass: Whether users may see their room: without an effect, or with one that leaves it
            as it is; see ``Menu``.
        effect: What a call begins with, for the page to show: ``{"name": ..., "options": {...}}``,
            without anything that is a file of this machine.
        able: The effects that the model can be used for, for the page to offer; None: all.
        peer: How connections are made.

    Raises:
        ConfigError: If a value is out of range, or the host needs a certificate.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    tokens: tuple[str, ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = ()
    max_sessions: int = 16
    max_viewers: int = 32
    max_viewers_in_all: int = 64
    max_pending_per_address: int = 4
    offers_per_minute: int = 120
    max_connections: int = 512
    max_connections_per_address: int = 128
    header_timeout_s: float = 15.0
    body_timeout_s: float = 10.0
    write_timeout_s: float = 30.0
    max_uploads: int = 128
    max_uploads_per_address: int = 4
    may_bypass: bool = True
    effect: Mapping[str, Any] | None = None
    able: tuple[str, ...] | None = None
    peer: PeerOptions = field(default_factory=PeerOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port is {self.port}, expected 0 to 65535")
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("cert", "key") if self.tls_cert is not None else ("key", "cert")
            raise ConfigError(f"--tls-{given} is given without --tls-{missing}: both are needed")
        if not (self.loopback or self.tls or self.behind_proxy):
            raise ConfigError(
                f"host {self.host!r} can be reached from other machines, whose browsers give no "
                "camera to a page without HTTPS: give --tls-cert and --tls-key, or --behind-proxy "
                "if a proxy in front of it has the certificate"
            )
        for name in (
            "max_sessions",
            "max_viewers",
            "max_viewers_in_all",
            "max_pending_per_address",
            "offers_per_minute",
            "max_connections",
            "max_connections_per_address",
            "max_uploads",
            "max_uploads_per_address",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("header_timeout_s", "body_timeout_s", "write_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")
        for origin in self.origins:
            _check_origin(origin)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def tls(self) -> bool:
        """Whether it has a certificate of its own."""
        return self.tls_cert is not None


def _check_origin(origin: str) -> None:
    try:
        parts = urlsplit(origin)
        fits = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and origin == f"{parts.scheme}://{parts.netloc}"
            and "@" not in parts.netloc
            and origin == origin.lower()
        )
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(
            f"origin {origin!r} is none: expected scheme and host as browsers send them, "
            "https://example.org, without a path"
        )
