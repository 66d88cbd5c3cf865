"""Watch: whether a connection comes about and stays alive, and what it is doing."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiortc import RTCPeerConnection

    from streamseg.webrtc.peer_link import Link
    from streamseg.webrtc.peer_options import PeerOptions

__all__ = ["Watch"]

_LOOK_S = 0.25
_SAMPLE_S = 1.0
# A viewer sends little: reports every second or five, checks of the connection, every 2.5 s from
# libwebrtc, 6 s at most from aioice.
_SILENT_S = 8.0


class Watch:
    """Looks after one connection in a task of its own.

    Args:
        options: The time-outs.
        receives: Whether media is expected.
        link: What is heard.
        media_s: When the last packet of media came; None before the first.
        decoded: How many pictures were decoded.
        end: Called, once, with the reason to end the connection.

    Attributes:
        bitrate_in: Bits per second of the last sample, 0 before it.
        bitrate_out: The same of what was sent.
        rtt_ms: Milliseconds, None where nothing is sent.
        lost: Packets of incoming media.
    """

    def __init__(
        self,
        options: PeerOptions,
        *,
        receives: bool,
        link: Link,
        media_s: Callable[[], float | None],
        decoded: Callable[[], int],
        end: Callable[[str], None],
    ) -> None:
        self.bitrate_in = 0
        self.bitrate_out = 0
        self.rtt_ms: float | None = None
        self.lost = 0
        self._options = options
        self._receives = receives
        self._link = link
        self._media_s = media_s
        self._decoded = decoded
        self._end = end
        self._begun_s = 0.0
        self._bytes: tuple[float, int, int] | None = None

    async def run(self, connection: RTCPeerConnection, connected: anyio.Event) -> None:
        """Watch until the connection is to be ended."""
        limit_s = self._options.handshake_timeout_s
        self._begun_s = time.monotonic()
        with anyio.move_on_after(limit_s):
            await connected.wait()
        if not connected.is_set():
            self._end(f"no connection came about within {limit_s:g} s")
            return
        since_s = sampled_s = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            reason = self._ended(now, since_s)
            if reason is not None:
                self._end(reason)
                return
            if now - sampled_s >= _SAMPLE_S:
                sampled_s = now
                await self._sample(connection, now)

    def _ended(self, now: float, since_s: float) -> str | None:
        if self._receives:
            limit_s = self._options.media_timeout_s
            media_s = self._media_s()
            if now - max(since_s, media_s or 0.0) > limit_s and (
                # Where packets are lost, one side may be connected for seconds before the other.
                media_s is not None or now - self._begun_s > self._options.handshake_timeout_s
            ):
                return f"no media came for {limit_s:g} s"
            limit_s = self._options.handshake_timeout_s
            if not self._decoded() and now - since_s > limit_s:
                return f"no picture could be decoded within {limit_s:g} s"
        elif now - max(since_s, self._link.heard_s) > _SILENT_S:
            return f"nothing was heard for {_SILENT_S:g} s"
        return None

    async def _sample(self, connection: RTCPeerConnection, now: float) -> None:
        taken = sent = lost = 0
        for part in (await connection.getStats()).values():
            kind = getattr(part, "type", "")
            if kind == "transport":
                taken += part.bytesReceived
                sent += part.bytesSent
            elif kind == "inbound-rtp":
                lost += part.packetsLost
            elif kind == "remote-inbound-rtp" and part.roundTripTime is not None:
                self.rtt_ms = 1000 * max(0.0, part.roundTripTime)
        self.lost = max(0, lost)
        if self._bytes is not None:
            span_s = max(1e-3, now - self._bytes[0])
            self.bitrate_in = int(8 * (taken - self._bytes[1]) / span_s)
            self.bitrate_out = int(8 * (sent - self._bytes[2]) / span_s)
        self._bytes = (now, taken, sent)
