"""What FFmpeg is told about a stream, by the scheme of its URL.

Not in here, though usual, because measurement and FFmpeg's source speak against them:

- ``fflags=nobuffer`` throws away what is read while the streams are analysed, the first key frame
  among it; then there is no picture until the next one. What is kept is decoded faster than it
  came, and the newest picture wins: there is no delay to be saved.
- ``flags=low_delay`` shows MPEG-2 and MPEG-4 pictures in the wrong order where there are B pictures,
  and saves nothing with H.264 and H.265, which know their delay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import av.format

from streamseg.sources.opening import MAX_PIXELS

__all__ = ["SCHEMES", "options_for"]

SCHEMES = (
    "rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "srt", "udp", "rtp", "tcp", "pipe",
)  # fmt: skip
"""Schemes of URLs that a stream can have."""

# The streams are analysed until their parameters are known, but no longer than this: some claim
# sound that never comes. FFmpeg's own 5 s would be seen as a camera that does not start.
_ANALYSE_US = 2_000_000
# Bytes to be read for it: a second of a camera's stream. (FFmpeg's 5 MB take a slow one minutes.)
_PROBE_BYTES = 2_000_000

# Pictures to find the rate by, which nothing depends on; FFmpeg's own 20 take 0.7 s at 25 a second.
_RATE_FRAMES = 3

_OF_SCHEME: Mapping[str, Mapping[str, str]] = {
    # Over UDP a lost packet damages all pictures up to the next key frame.
    "rtsp": {"rtsp_transport": "tcp", "max_delay": "500000"},
    "rtsps": {"max_delay": "500000"},
    "rtmp": {"rtmp_buffer": "100"},
    "rtmps": {"rtmp_buffer": "100"},
    # A burst must not end the stream; 188 bytes a unit: 5 MB.
    "udp": {"overrun_nonfatal": "1", "fifo_size": "28000"},
    "rtp": {"max_delay": "200000"},
    "tcp": {"tcp_nodelay": "1"},
}
# A sender that is not a web server has no business naming files for us to open.
_BYTE_STREAMS = frozenset({"tcp", "udp", "srt", "pipe"})
_NAMES_OTHERS = frozenset({"concat", "dash", "hls", "imf", "rtp", "rtsp", "sap", "sdp"})


def options_for(scheme: str, own: Mapping[str, str], *, open_timeout_s: float) -> dict[str, str]:
    """Return the options to open a stream with.

    Args:
        scheme: One of ``SCHEMES``.
        own: The user's, which win.
        open_timeout_s: How long opening may take, in seconds.
    """
    options = {
        "analyzeduration": str(_ANALYSE_US),
        "probesize": str(_PROBE_BYTES),
        "fpsprobesize": str(_RATE_FRAMES),
        "max_pixels": str(MAX_PIXELS),
        **_OF_SCHEME.get(scheme, {}),
    }
    if scheme in _BYTE_STREAMS:
        formats = av.format.formats_available - _NAMES_OTHERS
        options["format_whitelist"] = ",".join(sorted(formats))
    if "listen" in own.get("rtsp_flags", ""):
        # FFmpeg's own default, -1 for no limit, is out of the range that it checks it against.
        options["listen_timeout"] = str(math.ceil(open_timeout_s))
    return {**options, **own}
