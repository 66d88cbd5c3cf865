"""StreamSource: a stream from the network, or from a pipe, that FFmpeg can read.

    async with StreamSource("rtsp://user:password@camera.local/main") as source:
        frame = await source.receive()

When does a stream end, and when did it break? A server that ends and one that dies look the same
at the other end of most protocols. So a stream ends where its end is known beforehand (a length, as
of a file on a web server or a finished HLS playlist), where a pipe is closed, and where a running
HLS playlist says that it is finished. Everywhere else the end of the data is a broken connection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from streamseg.errors import ConfigError
from streamseg.redact import redacted_url
from streamseg.sources.live import LiveSource
from streamseg.sources.reconnect import Reconnect
from streamseg.sources.stream_grabber import Progress, StreamGrabber

__all__ = ["StreamSource"]

_USUAL = Reconnect()
_MARGIN_S = 1.0


class StreamSource(LiveSource):
    """Reads rtsp, rtsps, rtmp, rtmps, http, https, srt, udp, rtp, tcp and pipe URLs.

    The newest frame wins (`streamseg.sources.live`). What comes in pieces (HLS) or faster than real
    time (a file on a web server, a pipe) is let out at its own speed, and not thrown away.

    A connection that broke is made again as ``reconnect`` says; a file on a web server goes on
    where it stopped. The first connection must succeed.

    Args:
        url: What FFmpeg takes, ``pipe:`` for the standard input, with user name and password if
            need be; these never appear in a message. RTSP goes over TCP unless ``options`` say
            otherwise; with ``{"rtsp_flags": "listen"}`` it waits for a sender.
        options: FFmpeg's options of protocol and format; they win over the ones that are set.
        open_timeout_s: How long connecting may take, in seconds, more than 0.
        read_timeout_s: How long there may be no data, and no picture, in seconds, more than 0.
        reconnect: What to do when the connection breaks; None lets the source fail.

    Raises:
        ConfigError: If a number is out of its range.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, str] | None = None,
        open_timeout_s: float = 10.0,
        read_timeout_s: float = 5.0,
        reconnect: Reconnect | None = _USUAL,
    ) -> None:
        for what, value in (("open_timeout_s", open_timeout_s), ("read_timeout_s", read_timeout_s)):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{what} is {value}, expected more than 0 seconds")
        progress = Progress()
        given = dict(options or {})
        pipe = url.lower().startswith("pipe:")
        super().__init__(
            lambda: StreamGrabber(
                url,
                options=given,
                open_timeout_s=open_timeout_s,
                read_timeout_s=read_timeout_s,
                progress=progress,
            ),
            name=redacted_url(url),
            # What was read from a pipe is gone: there is nothing to connect to again.
            reconnect=None if pipe else reconnect,
            # FFmpeg's own timeout comes first, which ends the connection in an orderly way.
            stall_s=read_timeout_s + _MARGIN_S,
        )
