"""ServeConfig: what a scenario of ``streamseg serve`` may say, and its defaults.

Model, masks, effect and flow are said as for a live stream (``streamseg.config``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from streamseg.config import FlowConfig, LiveSourceConfig, Scenario, Table, load_scenario
from streamseg.errors import ConfigError
from streamseg.webrtc.choices import shown_effect
from streamseg.webrtc.peer_options import IceServer, PeerOptions
from streamseg.webrtc.security import parse_tokens, read_tokens
from streamseg.webrtc.server_options import ServerOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "TOKENS_VARIABLE",
    "IceServerConfig",
    "LimitsConfig",
    "RoomConfig",
    "ServeConfig",
    "ServerConfig",
    "WebRtcConfig",
    "load_serve_config",
    "server_options",
]

TOKENS_VARIABLE = "STREAMSEG_TOKENS"
"""The environment's variable with bearer tokens, where no file of them is named."""

Count = Annotated[int, Field(ge=1, le=10_000)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
BitsPerSecond = Annotated[int, Field(ge=10_000, le=1_000_000_000)]


class ServerConfig(Table):
    """``[server]``: where it listens, and for whom.

    Attributes:
        host: Address to listen on; any but a loopback one needs ``tls_cert`` or ``behind_proxy``.
        port: TCP port; 0 takes a free one.
        tls_cert: Certificate chain, PEM.
        tls_key: Its private key, PEM.
        behind_proxy: Whether a reverse proxy in front of it has the certificate.
        token_file: A file with a bearer token a line; without one the environment's
            ``STREAMSEG_TOKENS`` has them, and if that has none everybody is let in.
        origins: Pages of other origins that may use the server, as browsers write them.
        may_bypass: Whether users may see their room: without an effect, or with one that leaves it
            as it is.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    tls_cert: str | None = None
    tls_key: str | None = None
    behind_proxy: bool = False
    token_file: str | None = None
    origins: tuple[str, ...] = ()
    may_bypass: bool = True


class LimitsConfig(Table):
    """``[limits]``: how much of everything; one more is answered with 503 or 429.

    Attributes:
        sessions: Calls, publishers and sources at once.
        viewers: Viewers of one room at once.
        viewers_in_all: Viewers of all rooms at once.
        pending_per_address: Connections of one address that are still being made.
        offers_per_minute: Offers and uploads of one address.
        uploads: Background pictures that are kept.
    """

    sessions: Count = 16
    viewers: Count = 32
    viewers_in_all: Count = 64
    pending_per_address: Count = 4
    offers_per_minute: Count = 120
    uploads: Count = 128


class IceServerConfig(Table):
    """``[[webrtc.ice_server]]``: a STUN or TURN server.

    Attributes:
        urls: ``stun:host:port`` or ``turn:host:port?transport=udp``.
        username: For TURN.
        credential: For TURN.
    """

    urls: Annotated[tuple[str, ...], Field(min_length=1)]
    username: str | None = None
    credential: Annotated[str | None, Field(repr=False)] = None


class WebRtcConfig(Table):
    """``[webrtc]``: how connections are made.

    Attributes:
        ice_server: STUN and TURN servers; none by default.
        bitrate: What encoders start with, bits per second.
        min_bitrate: Not less than this.
        max_bitrate: Not more than this.
        prefer: The codec to answer with where a browser has both.
        handshake_timeout_s: How long a connection may take until it stands, in seconds.
        media_timeout_s: How long a sender may send nothing, in seconds.
        max_pixels: Larger pictures end their call.
        adapt: Whether pictures become smaller and fewer when the processor is short.
    """

    ice_server: tuple[IceServerConfig, ...] = ()
    bitrate: BitsPerSecond = 2_500_000
    min_bitrate: BitsPerSecond = 250_000
    max_bitrate: BitsPerSecond = 6_000_000
    prefer: Literal["H264", "VP8"] = "H264"
    handshake_timeout_s: Seconds = 10.0
    media_timeout_s: Seconds = 5.0
    max_pixels: Annotated[int, Field(ge=1, le=8192 * 8192)] = 1920 * 1088
    adapt: bool = True


class RoomConfig(Table):
    """``[[room]]``: a room that a source of this machine fills.

    Attributes:
        name: 1 to 64 of ``A-Z a-z 0-9 _ -``.
        source: As ``[source]`` of a live stream.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    source: LiveSourceConfig


class ServeConfig(Scenario):
    """Everything that can be configured for a server."""

    flow: FlowConfig = FlowConfig()
    server: ServerConfig = ServerConfig()
    limits: LimitsConfig = LimitsConfig()
    webrtc: WebRtcConfig = WebRtcConfig()
    room: tuple[RoomConfig, ...] = ()


def load_serve_config(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> ServeConfig:
    """Return the configuration of a server; see ``load_config``.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is wrong.
    """
    config = load_scenario(ServeConfig, path, overrides or {})
    if config.flow.when_busy == "wait":
        raise ConfigError("flow.when_busy is 'wait': a call cannot wait, expected drop or reuse")
    names = [room.name for room in config.room]
    if len(set(names)) < len(names):
        raise ConfigError("two of the rooms have the same name: each has one source")
    return config


def server_options(config: ServeConfig) -> ServerOptions:
    """Return the server's options; reads the tokens.

    Raises:
        ConfigError: If the tokens cannot be read, or values do not go together.
    """
    server, limits, webrtc = config.server, config.limits, config.webrtc
    if server.token_file is not None:
        tokens = read_tokens(Path(server.token_file))
    else:
        text = os.environ.get(TOKENS_VARIABLE, "")
        tokens = parse_tokens(text, where=f"${TOKENS_VARIABLE}") if text.strip() else ()
    return ServerOptions(
        host=server.host,
        port=server.port,
        tls_cert=None if server.tls_cert is None else Path(server.tls_cert),
        tls_key=None if server.tls_key is None else Path(server.tls_key),
        behind_proxy=server.behind_proxy,
        tokens=tokens,
        origins=server.origins,
        max_sessions=limits.sessions,
        max_viewers=limits.viewers,
        max_viewers_in_all=limits.viewers_in_all,
        max_pending_per_address=limits.pending_per_address,
        offers_per_minute=limits.offers_per_minute,
        max_uploads=limits.uploads,
        may_bypass=server.may_bypass,
        effect=shown_effect(config.effect.name, config.effect.options),
        peer=PeerOptions(
            ice_servers=tuple(
                IceServer(item.urls, item.username, item.credential) for item in webrtc.ice_server
            ),
            handshake_timeout_s=webrtc.handshake_timeout_s,
            media_timeout_s=webrtc.media_timeout_s,
            bitrate=webrtc.bitrate,
            min_bitrate=webrtc.min_bitrate,
            max_bitrate=webrtc.max_bitrate,
            prefer=webrtc.prefer,
            max_pixels=webrtc.max_pixels,
        ),
    )
