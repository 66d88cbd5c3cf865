"""Where a stream goes: what a URL's scheme means, how it is shown, what is asked of FFmpeg."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from streamseg.errors import ConfigError, SinkOpenError
from streamseg.redact import redacted_url
from streamseg.sinks.container import Container

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SCHEMES", "StreamTarget", "parse_bitrate", "shown_url", "target_for"]

_UDP_PAYLOAD = "1316"  # seven packets of MPEG-TS: the most that fits into one of Ethernet
_SOUND = frozenset({"aac"})

_TS = Container("mpegts", exact_packets=False, only=frozenset({"h264", "hevc"}) | _SOUND)
_FLV = Container(
    "flv",
    reorders=False,
    exact_packets=False,
    only=frozenset({"h264"}) | _SOUND,
    needs_headers=True,
)
_RTSP = Container(
    "rtsp", exact_packets=False, only=frozenset({"h264", "hevc"}) | _SOUND, needs_headers=True
)
_CONTAINERS: dict[str, Container] = {
    "rtmp": _FLV,
    "rtmps": _FLV,
    "rtsp": _RTSP,
    "srt": _TS,
    "udp": _TS,
    "tcp": _TS,
    "http": _TS,
    "https": _TS,
}

SCHEMES = tuple(f"{name}://" for name in _CONTAINERS)
"""What a stream's URL may begin with."""


@dataclass(frozen=True, slots=True)
class StreamTarget:
    """A place to stream to.

    Attributes:
        url: As FFmpeg takes it, with credentials: for nobody's eyes.
        shown: As it may be shown.
        container: What may be sent there.
        options: Of the muxer.
        host: The host's name or address, None where there is none.
        relay: An ``ffmpeg`` executable that has to carry the stream, None where none has to.
    """

    url: str = field(repr=False)
    shown: str
    container: Container
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    host: str | None = None
    relay: str | None = None

    def advice(self, reason: str) -> str:
        """Return what to try when a connection failed for this reason."""
        text = reason.lower()
        if "refused" in text:
            return "is a server listening there?"
        if (
            "no answer" in text
            or "timed out" in text
            or "unreachable" in text
            or "no route" in text
        ):
            return "check the address, and what is between"
        if "name is not known" in text:
            return "check the host's name"
        if "401" in text or "403" in text or "authorization" in text or "forbidden" in text:
            return "check user name, password or token"
        if "protocol not found" in text:
            return "this FFmpeg cannot do that; use another scheme"
        return f"check that the server takes {self.container.format} at this address"


def shown_url(url: str) -> str:
    """Return the URL without its credentials; the stream key of RTMP is one, too."""
    shown = redacted_url(url)
    if re.match(r"rtmp[a-z]*://", shown, re.IGNORECASE):
        # After a blank come options of FFmpeg's, such as a playpath: the key again.
        address = re.split(r"[?#\s]", shown, maxsplit=1)[0]
        scheme, _, rest = address.partition("://")
        folder, slash, key = rest.rstrip("/").rpartition("/")
        if slash and key:
            return f"{scheme}://{folder}/***"
        return address
    return shown


def target_for(url: str, options: Mapping[str, str] | None = None) -> StreamTarget:
    """Return what a URL means.

    Args:
        url: Where to stream to.
        options: Further options of the muxer.

    Raises:
        SinkOpenError: If its scheme is none of ``SCHEMES``, or nothing here can send to it.
    """
    shown = shown_url(url)
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    container = _CONTAINERS.get(scheme) if separator else None
    if container is None:
        raise SinkOpenError(
            f"cannot stream to {shown}: unsupported scheme; these work: {', '.join(SCHEMES)}"
        )
    try:
        host = urlsplit(f"//{rest}").hostname
        urlsplit(f"//{rest}").port  # noqa: B018 - it is parsed when it is read
    except ValueError as exc:
        raise SinkOpenError(f"cannot stream to {shown}: the address is not valid") from exc
    if not host:
        raise SinkOpenError(f"cannot stream to {shown}: the address has no host")
    relay = None
    chosen: dict[str, str] = {}
    if scheme == "rtsp":
        chosen["rtsp_transport"] = "tcp"
    elif scheme == "udp":
        url = _with_field(url, "pkt_size", _UDP_PAYLOAD)
    elif scheme == "srt":
        url = _with_field(url, "pkt_size", _UDP_PAYLOAD)
        relay = _ffmpeg_with_srt()
        if relay is None:
            raise SinkOpenError(
                f"cannot stream to {shown}: no ffmpeg with SRT was found; install ffmpeg, "
                "or use rtmp:// or rtsp://"
            )
    if container.format == "mpegts":
        chosen["mpegts_flags"] = "+resend_headers"  # tables with every connection's first packet
        chosen["pat_period"] = "0.5"
    if container.format == "flv":
        chosen["flvflags"] = "no_duration_filesize"  # a stream cannot go back to fill them in
    return StreamTarget(url, shown, container, {**chosen, **(options or {})}, host, relay)


def parse_bitrate(bitrate: int | str) -> int:
    """Return bits per second for a number, or for text such as ``2500k`` or ``4M``.

    Raises:
        ConfigError: If it is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", str(bitrate).strip())
    value = 0.0
    if match is not None:
        value = float(match[1]) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()]
    if not 10_000 <= value <= 1e9:
        raise ConfigError(
            f"bitrate is {bitrate!r}, expected bits per second from 10k to 1000M, such as 2500k"
        )
    return round(value)


def _with_field(url: str, name: str, value: str) -> str:
    if re.search(rf"[?&]{name}=", url):
        return url
    return f"{url}{'&' if '?' in url else '?'}{name}={value}"


@lru_cache(maxsize=1)
def _ffmpeg_with_srt() -> str | None:
    """Return the ``ffmpeg`` on the path if it can send by SRT; PyAV's FFmpeg cannot."""
    found = shutil.which("ffmpeg")
    if found is None:
        return None
    try:
        listed = subprocess.run(
            [found, "-hide_banner", "-loglevel", "quiet", "-protocols"],
            capture_output=True,
            text=True,
            timeout=5,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    outputs = listed.stdout.partition("Output:")[2]
    return found if "srt" in outputs.split() else None
